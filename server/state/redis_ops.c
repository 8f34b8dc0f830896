/* redis_ops.c - each operation as words to Redis, and its answer as a verdict. */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/state/file_buffer.h"
#include "server/state/redis_internal.h"
#include "server/state/redis_script.h"

enum { KEY_BYTES = 128, NUMBER_BYTES = 40, EVAL_WORDS = 3 + 3 + 8 };

struct text {
    char at[NUMBER_BYTES];
};

static struct text whole(uint64_t n)
{
    struct text t;

    snprintf(t.at, sizeof(t.at), "%llu", (unsigned long long)n);
    return t;
}

/* The same text of the same number everywhere. */
static struct text real(double x)
{
    struct text t;

    snprintf(t.at, sizeof(t.at), "%a", x);
    return t;
}

static void object_key(char out[KEY_BYTES], const char *what, const struct disk_record *r)
{
    snprintf(out, KEY_BYTES, "eddy:%s:%016llx:%s", what, (unsigned long long)r->owner, r->id.text);
}

static void head_key(char out[KEY_BYTES], const struct disk_record *r)
{
    object_key(out, r->kind == DISK_SESSION_SET ? "session" : "snapshot", r);
}

static void id_key(char out[KEY_BYTES], const char *what, const struct id *id)
{
    snprintf(out, KEY_BYTES, "eddy:%s:%s", what, id->text);
}

static enum redis_verdict verdict_of(enum redis_link_end end)
{
    static const enum redis_verdict of[] = {
        [LINK_DONE] = REDIS_DONE,
        [LINK_AWAY] = REDIS_AWAY,
        [LINK_FULL] = REDIS_FULL,
        [LINK_REFUSED] = REDIS_FAILED,
    };
    return of[end];
}

/* A call that is tried until `until`, however often the connection breaks. */
static enum redis_verdict call(struct redis_lane *lane, const struct redis_word *word, int words,
                               double until, redisReply **reply, struct error *err)
{
    enum redis_link_end end;

    do
        end = redis_link_call(&lane->link, word, words, reply, err);
    while (end == LINK_AWAY && clock_seconds() < until && redis_pause(lane));
    redis_noticed(lane->redis, end == LINK_AWAY, err->message);
    if (end == LINK_AWAY)
        err->code = ERR_AWAY;
    return verdict_of(end);
}

/* An EVAL that is being put together: keys first, then arguments. */
struct script {
    struct redis_word word[EVAL_WORDS];
    int words;
};

static struct script script_of(const char *text, const char *keys)
{
    struct script s = { .words = 3 };

    s.word[0] = redis_word("EVAL");
    s.word[1] = redis_word(text);
    s.word[2] = redis_word(keys);
    return s;
}

static void add(struct script *s, const char *text)
{
    s->word[s->words++] = redis_word(text);
}

static bool says(const redisReply *reply, const char *word)
{
    return reply->type == REDIS_REPLY_STRING && strcmp(reply->str, word) == 0;
}

/* The first word of the answer; *value is the second, or NULL. */
static enum redis_verdict verdict_in(const redisReply *reply, const redisReply **value)
{
    static const struct {
        const char *word;
        enum redis_verdict verdict;
    } words[] = {
        { "done", REDIS_DONE },       { "absent", REDIS_ABSENT }, { "exists", REDIS_EXISTS },
        { "busy", REDIS_BUSY },       { "lost", REDIS_LOST },     { "missing", REDIS_MISSING },
        { "foreign", REDIS_FOREIGN },
    };

    *value = NULL;
    if (reply->type != REDIS_REPLY_ARRAY || !reply->elements)
        return REDIS_FAILED;
    if (reply->elements > 1)
        *value = reply->element[1];
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (says(reply->element[0], words[i].word))
            return words[i].verdict;
    return REDIS_FAILED;
}

static enum redis_verdict eval(struct redis_lane *lane, const struct script *s, double until,
                               redisReply **reply, const redisReply **value, struct error *err)
{
    enum redis_verdict v = call(lane, s->word, s->words, until, reply, err);

    *value = NULL;
    return v == REDIS_DONE ? verdict_in(*reply, value) : v;
}

static void explain(struct redis_op *op, const struct redis *r, const redisReply *value)
{
    static const char *const why[] = {
        [REDIS_ABSENT] = "it is not in Redis",
        [REDIS_EXISTS] = "it is in Redis already",
        [REDIS_BUSY] = "another server runs a turn on it",
        [REDIS_LOST] = "another server has taken it over",
        [REDIS_MISSING] = "its state is not in Redis",
        [REDIS_DAMAGED] = "what Redis has of it is damaged",
    };

    if (op->verdict == REDIS_FOREIGN)
        error_set(&op->error, ERR_FORMAT, "it belongs to the model %.60s, this is %s",
                  value && value->type == REDIS_REPLY_STRING ? value->str : "?", r->model);
    else if (op->verdict <= REDIS_DAMAGED && why[op->verdict])
        error_set(&op->error, ERR_INPUT, "%s", why[op->verdict]);
    else if (op->verdict == REDIS_FAILED && op->error.code == ERR_NONE)
        error_set(&op->error, ERR_IO, "Redis did not understand");
}

static bool take_record(struct redis_op *op, const redisReply *value)
{
    struct disk_record found;
    void *note;

    if (!value || value->type != REDIS_REPLY_STRING ||
        disk_record_decode((const unsigned char *)value->str, value->len, &found) != value->len ||
        found.kind != op->record.kind || found.owner != op->record.owner ||
        !id_equal(&found.id, &op->record.id)) {
        op->verdict = REDIS_DAMAGED;
        return false;
    }
    note = malloc(found.note_len + 1);
    if (!note) {
        op->verdict = REDIS_FAILED;
        return error_set(&op->error, ERR_NOMEM, "no memory for a session's record");
    }
    memcpy(note, found.note, found.note_len);
    found.note = note;
    free(op->record.note);
    op->record = found;
    return true;
}

static void look(struct redis_lane *lane, struct redis_op *op)
{
    struct script s = script_of(redis_script_look, "1");
    redisReply *reply = NULL;
    const redisReply *value;
    char head[KEY_BYTES];

    head_key(head, &op->record);
    add(&s, head);
    add(&s, lane->redis->model);
    op->verdict = eval(lane, &s, 0, &reply, &value, &op->error);
    if (op->verdict == REDIS_DONE)
        take_record(op, value);
    explain(op, lane->redis, value);
    freeReplyObject(reply);
}

static void leave(struct redis_lane *lane, const struct disk_record *r, const struct id *token)
{
    struct script s = script_of(redis_script_leave, "1");
    redisReply *reply = NULL;
    const redisReply *value;
    char lease[KEY_BYTES];
    struct error err;

    object_key(lease, "lease", r);
    add(&s, lease);
    add(&s, token->text);
    eval(lane, &s, 0, &reply, &value, &err);
    freeReplyObject(reply);
}

static void take(struct redis_lane *lane, struct redis_op *op)
{
    struct redis *r = lane->redis;
    struct redis_lease *held = calloc(1, sizeof(*held));
    struct script s = script_of(redis_script_take, "2");
    struct text life = whole((uint64_t)r->options.lease_ms);
    char head[KEY_BYTES], lease[KEY_BYTES];
    double asked = clock_seconds();
    redisReply *reply = NULL;
    const redisReply *value;

    if (!held) {
        op->verdict = REDIS_FAILED;
        error_set(&op->error, ERR_NOMEM, "no memory for a lease");
        return;
    }
    id_generate(&op->token, "lease");
    head_key(head, &op->record);
    object_key(lease, "lease", &op->record);
    add(&s, head);
    add(&s, lease);
    add(&s, r->model);
    add(&s, op->token.text);
    add(&s, life.at);
    op->verdict = eval(lane, &s, 0, &reply, &value, &op->error);
    if (op->verdict == REDIS_DONE && take_record(op, value)) {
        held->record = op->record;
        held->record.note = NULL;
        held->token = op->token;
        held->renew_at = asked + r->options.lease_ms * 1e-3 / 3;
        redis_hold(r, held);
        held = NULL;
    } else if (op->verdict == REDIS_DAMAGED || op->verdict == REDIS_FAILED) {
        leave(lane, &op->record, &op->token);
    }
    if (op->verdict == REDIS_BUSY && value && value->type == REDIS_REPLY_INTEGER)
        op->wait_ms = value->integer > 0 ? (int)value->integer : 0;
    explain(op, r, value);
    freeReplyObject(reply);
    free(held);
}

static enum redis_verdict set_field(struct redis_lane *lane, const char *key, const char *field,
                                    struct redis_word bytes, double until, struct error *err)
{
    struct script s = script_of(redis_script_upload, "1");
    struct text life = whole(REDIS_UPLOAD_MS);
    redisReply *reply = NULL;
    const redisReply *value;
    enum redis_verdict v;

    add(&s, key);
    add(&s, life.at);
    add(&s, field);
    s.word[s.words++] = bytes;
    v = eval(lane, &s, until, &reply, &value, err);
    freeReplyObject(reply);
    return v;
}

static void count_bytes(struct redis *r, uint64_t sent, uint64_t received)
{
    pthread_mutex_lock(&r->mutex);
    r->counts.sent += sent;
    r->counts.received += received;
    pthread_mutex_unlock(&r->mutex);
}

static enum redis_verdict upload(struct redis_lane *lane, struct redis_op *op, const char *key,
                                 double until)
{
    size_t at = 0, chunks = 0;
    struct text n;

    for (; at < op->file_len; chunks++) {
        size_t left = op->file_len - at, len = left < REDIS_CHUNK ? left : REDIS_CHUNK;
        struct redis_word bytes = { (const char *)op->file + at, len };
        enum redis_verdict v;

        n = whole(chunks);
        v = set_field(lane, key, n.at, bytes, until, &op->error);
        if (v != REDIS_DONE)
            return v;
        count_bytes(lane->redis, len, 0);
        at += len;
    }
    for (int last = 0; last < 2; last++) {
        enum redis_verdict v;

        n = whole(last ? op->file_len : chunks);
        v = set_field(lane, key, last ? "bytes" : "chunks", redis_word(n.at), until, &op->error);
        if (v != REDIS_DONE)
            return v;
    }
    return REDIS_DONE;
}

static void move(struct redis_lane *lane, struct redis_op *op, unsigned char *record, double until)
{
    struct disk_record *r = &op->record;
    bool create = op->kind == REDIS_CREATE;
    struct script s = script_of(redis_script_commit, "3");
    struct text old = whole(r->version - 1), new = whole(r->version), created = real(r->created),
                ttl = whole(r->ttl > 0 ? (uint64_t)(r->ttl * 1000 + 0.5) : 0);
    char head[KEY_BYTES], lease[KEY_BYTES], staged[KEY_BYTES];
    redisReply *reply = NULL;
    const redisReply *value = NULL;

    head_key(head, r);
    object_key(lease, "lease", r);
    id_key(staged, "upload", &op->token);
    add(&s, head);
    add(&s, lease);
    add(&s, staged);
    add(&s, lane->redis->model);
    add(&s, op->token.text);
    add(&s, create ? "" : old.at);
    add(&s, new.at);
    add(&s, created.at);
    add(&s, r->checkpoint.text);
    add(&s, ttl.at);
    s.word[s.words++] = (struct redis_word){ record, disk_record_encode(r, record) };
    op->verdict = op->file ? upload(lane, op, staged, until) : REDIS_DONE;
    if (op->verdict == REDIS_DONE)
        op->verdict = eval(lane, &s, until, &reply, &value, &op->error);
    explain(op, lane->redis, value);
    freeReplyObject(reply);
}

/* A turn's commit is worth as many attempts as its lease lives, which does not wait for its place
 * in the queue either: what is late is tried once. */
static void commit(struct redis_lane *lane, struct redis_op *op)
{
    struct redis *r = lane->redis;
    double until = op->kind == REDIS_COMMIT ? op->since + r->options.lease_ms * 1e-3 : 0;
    unsigned char *record = malloc(DISK_RECORD_BYTES);

    if (op->kind == REDIS_CREATE)
        id_generate(&op->token, "new");
    if (op->encode)
        op->encode(op);
    if (op->file)
        op->record.bytes = op->file_len;
    if (!record)
        error_set(&op->error, ERR_NOMEM, "no memory for a session's record");
    if (op->error.code == ERR_NONE)
        move(lane, op, record, until);
    else
        op->verdict = REDIS_FAILED;
    free(record);
    if (op->kind == REDIS_COMMIT)
        redis_drop(r, &op->token);
    if (op->kind == REDIS_COMMIT && op->verdict != REDIS_DONE && op->verdict != REDIS_AWAY)
        leave(lane, &op->record, &op->token);
    if (!op->encode)
        free(op->file);
    op->file = NULL;
}

/* Decimal digits, at most `max`; 0 for anything else. */
static size_t length_in(const redisReply *reply, size_t max)
{
    size_t n = 0;

    for (size_t i = 0; i < reply->len; i++) {
        if (reply->str[i] < '0' || reply->str[i] > '9' || n > max)
            return 0;
        n = n * 10 + (size_t)(reply->str[i] - '0');
    }
    return n <= max ? n : 0;
}

/* The text of a field; NULL with *err when there is none. For freeReplyObject(). */
static redisReply *get_field(struct redis_lane *lane, const char *key, const char *field,
                             struct error *err)
{
    struct redis_word get[] = { redis_word("HGET"), redis_word(key), redis_word(field) };
    redisReply *reply;

    if (call(lane, get, 3, 0, &reply, err) != REDIS_DONE)
        return NULL;
    if (reply->type == REDIS_REPLY_STRING)
        return reply;
    freeReplyObject(reply);
    error_set(err, ERR_INPUT, "the state is not in Redis");
    return NULL;
}

static bool fetch_chunks(struct redis_lane *lane, const char *key, unsigned char *bytes, size_t len,
                         struct error *err)
{
    uint64_t chunk = 0;

    for (size_t at = 0; at < len; chunk++) {
        struct text n = whole(chunk);
        redisReply *reply = get_field(lane, key, n.at, err);
        size_t got = reply ? reply->len : 0;

        if (!reply)
            return false;
        if (got && got <= len - at)
            memcpy(bytes + at, reply->str, got);
        freeReplyObject(reply);
        if (!got || got > len - at)
            return error_set(err, ERR_FORMAT, "the state in Redis is not as long as it says");
        at += got;
        count_bytes(lane->redis, 0, got);
    }
    return true;
}

bool redis_fetch(struct redis_lane *lane, const struct id *checkpoint, struct file_buffer *out,
                 struct error *err)
{
    char key[KEY_BYTES];
    redisReply *reply;
    size_t n;

    id_key(key, "state", checkpoint);
    reply = get_field(lane, key, "bytes", err);
    if (!reply)
        return false;
    n = length_in(reply, lane->redis->options.max_file);
    freeReplyObject(reply);
    if (!n)
        return error_set(err, ERR_FORMAT, "the state in Redis has no length");
    return file_buffer_begin(out, n, err) && fetch_chunks(lane, key, out->bytes, n, err);
}

static void erase(struct redis_lane *lane, struct redis_op *op)
{
    struct script s = script_of(redis_script_delete, "2");
    struct text version = whole(op->record.version), created = real(op->record.created);
    char head[KEY_BYTES], lease[KEY_BYTES];
    redisReply *reply = NULL;
    const redisReply *value;

    head_key(head, &op->record);
    object_key(lease, "lease", &op->record);
    add(&s, head);
    add(&s, lease);
    add(&s, lane->redis->model);
    if (op->record.created > 0) {
        add(&s, version.at);
        add(&s, created.at);
    }
    op->verdict = eval(lane, &s, 0, &reply, &value, &op->error);
    explain(op, lane->redis, value);
    freeReplyObject(reply);
}

void redis_give_back(struct redis_lane *lane, const struct redis_lease *lease)
{
    leave(lane, &lease->record, &lease->token);
}

enum redis_verdict redis_renew(struct redis_lane *lane, const struct redis_lease *lease,
                               struct error *err)
{
    struct script s = script_of(redis_script_renew, "2");
    struct text life = whole((uint64_t)lane->redis->options.lease_ms),
                version = whole(lease->record.version), created = real(lease->record.created);
    char head[KEY_BYTES], key[KEY_BYTES];
    redisReply *reply = NULL;
    const redisReply *value;
    enum redis_verdict v;

    head_key(head, &lease->record);
    object_key(key, "lease", &lease->record);
    add(&s, head);
    add(&s, key);
    add(&s, lease->token.text);
    add(&s, life.at);
    add(&s, version.at);
    add(&s, created.at);
    v = eval(lane, &s, 0, &reply, &value, err);
    freeReplyObject(reply);
    return v;
}

void redis_do(struct redis_lane *lane, struct redis_op *op)
{
    op->error.code = ERR_NONE;
    switch (op->kind) {
    case REDIS_LOOK:
        look(lane, op);
        break;
    case REDIS_TAKE:
        take(lane, op);
        break;
    case REDIS_CREATE:
    case REDIS_COMMIT:
        commit(lane, op);
        break;
    case REDIS_LEAVE:
        redis_drop(lane->redis, &op->token);
        leave(lane, &op->record, &op->token);
        op->verdict = REDIS_DONE;
        break;
    case REDIS_DELETE:
        erase(lane, op);
        break;
    }
    if (op->verdict == REDIS_DONE) /* an attempt before the last may have failed */
        op->error.code = ERR_NONE;
}
