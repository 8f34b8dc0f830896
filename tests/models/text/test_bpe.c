/* test_bpe.c - the heap finds the merges that the plain definition finds. */
#include "tests/models/text/case_file.h"

#include "models/text/bpe.h"

enum { LETTERS = 3, MERGES = 60, WORD = 200 };

struct model {
    struct vocabulary vocabulary;
    struct added_tokens added;
    struct bpe bpe;
    int32_t left[MERGES], right[MERGES], whole[MERGES];
    int merges;
};

/* A token's text, copied out of the vocabulary; its length. */
static size_t copy_text(const struct model *m, int32_t id, char *out)
{
    size_t len;
    const char *text = vocabulary_text(&m->vocabulary, id, &len);

    memcpy(out, text, len);
    return len;
}

/* Letters a, b, c and random merges of what there is. */
static void make_model(struct model *m, uint64_t *seed)
{
    struct error err = { 0 };
    size_t ll = 0, rl = 0;

    *m = (struct model){ 0 };
    for (int i = 0; i < LETTERS; i++)
        assert_true(vocabulary_add(&m->vocabulary, i, &"abc"[i], 1, 1000, &err));
    for (int i = 0; i < MERGES; i++) {
        int32_t l = (int32_t)draw(seed, (uint32_t)m->vocabulary.size);
        int32_t r = (int32_t)draw(seed, (uint32_t)m->vocabulary.size);
        const char *left = vocabulary_text(&m->vocabulary, l, &ll);
        const char *right = vocabulary_text(&m->vocabulary, r, &rl);
        char joined[64];

        if (ll + rl > sizeof(joined))
            continue;
        memcpy(joined, left, ll);
        memcpy(joined + ll, right, rl);
        if (vocabulary_find(&m->vocabulary, joined, ll + rl) >= 0)
            continue;
        m->left[m->merges] = l;
        m->right[m->merges] = r;
        m->whole[m->merges++] = m->vocabulary.size;
        assert_true(
            vocabulary_add(&m->vocabulary, m->vocabulary.size, joined, ll + rl, 1000, &err));
    }
    bpe_init(&m->bpe, &m->vocabulary, &m->added);
    for (int i = 0; i < m->merges; i++) {
        char left[64], right[64];

        ll = copy_text(m, m->left[i], left);
        rl = copy_text(m, m->right[i], right);
        assert_true(bpe_add_merge(&m->bpe, left, ll, right, rl, &err));
    }
}

/* Again and again: the merge of the lowest rank that occurs, at its leftmost place. */
static int merge_plainly(const struct model *m, int32_t *id, int n)
{
    for (int rank = 0; rank < m->merges; rank++) {
        for (int i = 0; i + 1 < n; i++) {
            if (id[i] != m->left[rank] || id[i + 1] != m->right[rank])
                continue;
            id[i] = m->whole[rank];
            memmove(id + i + 1, id + i + 2, (size_t)(n - i - 2) * sizeof(*id));
            n--;
            rank = -1;
            break;
        }
    }
    return n;
}

static void the_heap_agrees_with_the_definition(void **state)
{
    struct bpe_scratch scratch = { 0 };
    uint64_t seed = 11;
    struct model m;
    (void)state;

    for (int round = 0; round < 60; round++) {
        make_model(&m, &seed);
        for (int word = 0; word < 40; word++) {
            size_t len = draw(&seed, word < 20 ? 12 : WORD);
            uint32_t letters = 1 + draw(&seed, LETTERS);
            struct token_list out = { 0 };
            int32_t plain[WORD];
            char text[WORD];

            for (size_t i = 0; i < len; i++) {
                plain[i] = (int32_t)draw(&seed, letters);
                text[i] = "abc"[plain[i]];
            }
            assert_true(bpe_encode(&m.bpe, &scratch, text, len, &out));
            assert_int_equal(out.count, merge_plainly(&m, plain, (int)len));
            if (out.count)
                assert_memory_equal(out.id, plain, out.count * sizeof(*plain));
            free(out.id);
        }
        bpe_finish(&m.bpe);
        vocabulary_finish(&m.vocabulary);
    }
    bpe_scratch_finish(&scratch);
}

static void a_merge_needs_its_tokens_and_comes_once(void **state)
{
    struct error err = { 0 };
    char left[64], right[64];
    uint64_t seed = 1;
    struct model m;
    size_t ll, rl;
    (void)state;

    make_model(&m, &seed);
    ll = copy_text(&m, m.left[0], left);
    rl = copy_text(&m, m.right[0], right);
    assert_false(bpe_add_merge(&m.bpe, left, ll, right, rl, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.message, "twice"));
    assert_false(bpe_add_merge(&m.bpe, "x", 1, "a", 1, &err));
    assert_non_null(strstr(err.message, "'x' is not a token"));
    assert_false(bpe_add_merge(&m.bpe, "", 0, "a", 1, &err));
    bpe_finish(&m.bpe);
    vocabulary_finish(&m.vocabulary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_heap_agrees_with_the_definition),
        cmocka_unit_test(a_merge_needs_its_tokens_and_comes_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
