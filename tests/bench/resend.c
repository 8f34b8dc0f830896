/* resend - what a chat client that sends everything again waits for.
 *
 *   resend MODEL TURNS
 *
 * One conversation without a session: every turn sends all messages so far and a new one, to
 * a server with its prefix cache and, for comparison, with "cache": false, in turn. Reported
 * per turn are the tokens of the prompt, those that were spared, and the time to the first
 * text of both; the two answers must be equal. $EDDY is the server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"

enum { ANSWER_TOKENS = 32, ANSWER_BYTES = 4096 };

static const char *model;
static int turns;

struct answer {
    char text[ANSWER_BYTES];
    double first; /* seconds to its first text */
    int prompt, cached;
};

static void add_message(cJSON *messages, const char *role, const char *text)
{
    cJSON *m = cJSON_CreateObject();

    cJSON_AddStringToObject(m, "role", role);
    cJSON_AddStringToObject(m, "content", text);
    cJSON_AddItemToArray(messages, m);
}

/* The request of one turn, from malloc. */
static char *request(const cJSON *messages, int turn, bool cache)
{
    cJSON *body = cJSON_CreateObject(), *usage;
    char *text;

    cJSON_AddItemToObject(body, "messages", cJSON_Duplicate(messages, true));
    cJSON_AddNumberToObject(body, "max_tokens", ANSWER_TOKENS);
    cJSON_AddNumberToObject(body, "seed", turn);
    cJSON_AddNumberToObject(body, "temperature", 0.8);
    cJSON_AddBoolToObject(body, "ignore_eos", true);
    cJSON_AddBoolToObject(body, "cache", cache);
    cJSON_AddBoolToObject(body, "stream", true);
    usage = cJSON_AddObjectToObject(body, "stream_options");
    cJSON_AddBoolToObject(usage, "include_usage", true);
    text = cJSON_PrintUnformatted(body);
    cJSON_Delete(body);
    return text;
}

static void take_event(struct answer *a, const char *data, double since)
{
    cJSON *event = cJSON_Parse(data);
    const cJSON *choice = cJSON_GetObjectItem(event, "choices");
    const cJSON *usage = cJSON_GetObjectItem(event, "usage");
    const cJSON *delta = choice ? cJSON_GetObjectItem(choice->child, "delta") : NULL;
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(delta, "content"));
    size_t len = strlen(a->text);

    if (text && *text) {
        if (!len)
            a->first = seconds_now() - since;
        snprintf(a->text + len, sizeof(a->text) - len, "%s", text);
    }
    if (cJSON_IsObject(usage)) {
        a->prompt = (int)number_of(usage, "prompt_tokens");
        a->cached = (int)number_of(item_of(usage, "prompt_tokens_details"), "cached_tokens");
    }
    cJSON_Delete(event);
}

static struct answer ask_turn(struct client *c, const cJSON *messages, int turn, bool cache)
{
    char *body = request(messages, turn, cache), *data;
    struct answer a = { 0 };
    struct response r;
    double since = seconds_now();

    assert_true(client_ask(c, "POST", "/v1/chat/completions", NULL, body, strlen(body)));
    assert_true(client_read_head(c, &r));
    assert_int_equal(r.status, 200);
    while ((data = client_event(c))) {
        take_event(&a, data, since);
        free(data);
    }
    assert_true(c->ended && *a.text);
    free(body);
    return a;
}

static bool worth_a_line(int turn)
{
    return turn == 1 || turn == 2 || turn == 5 || turn % 10 == 0 || turn == turns;
}

static void everything_again(void **state)
{
    cJSON *messages = cJSON_CreateArray();
    struct client c;
    struct live l;

    (void)state;
    live_start(&l, model, "--chat-template", "plain", NULL);
    c = client_dial(l.port);
    puts("| turn | prompt, tokens | spared | first text, ms | without the cache |\n"
         "|---|---|---|---|---|");
    for (int turn = 1; turn <= turns; turn++) {
        struct answer with, without;
        char question[512];

        snprintf(question, sizeof(question),
                 "And on day %d, when the rain had stopped and all the birds of the forest came "
                 "back to the old mill by the river, what did the miller's youngest daughter say "
                 "to the fox who was waiting there for her with a golden key and a loaf of bread?",
                 turn);
        add_message(messages, "user", question);
        with = ask_turn(&c, messages, turn, true);
        without = ask_turn(&c, messages, turn, false);
        assert_string_equal(with.text, without.text);
        assert_int_equal(without.cached, 0);
        if (worth_a_line(turn))
            printf("| %d | %d | %d | %.1f | %.1f |\n", turn, with.prompt, with.cached,
                   1e3 * with.first, 1e3 * without.first);
        add_message(messages, "assistant", with.text);
    }
    client_close(&c);
    cJSON_Delete(messages);
    assert_int_equal(live_stop(&l), 0);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = { cmocka_unit_test(everything_again) };

    if (argc != 3) {
        fprintf(stderr, "usage: resend MODEL TURNS\n");
        return 2;
    }
    model = argv[1];
    turns = (int)strtol(argv[2], NULL, 10);
    setvbuf(stdout, NULL, _IOLBF, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
