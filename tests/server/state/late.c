#include "tests/server/state/late.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"

enum {
    PENDING_MAX = 256,
    BLOCKS_MAX = 4096,
    GARBAGE = 0xa5,
    BUSY_MAX = 4,
    ROWS_MAX = 256,
    SAMPLES_MAX = 4,
    STEPS_MAX = 4
};

struct move {
    void *dst;
    const void *src;
    size_t bytes;
    int logged; /* above 0: src and dst are a slot, with so many steps in this log */
    struct state_log log;
    int slot;
};

/* Draws that were made, and are not to be seen yet. */
struct drawn {
    struct sample_result *to, result[ROWS_MAX];
    int rows;
    uint64_t mark; /* they come with what is waited for from this on */
};

/* A step that nobody has waited for: no move may touch the states that it works on. */
struct flying {
    const char *records;
    size_t stride;
    int slot[ROWS_MAX], slots;
    uint64_t mark;
};

/* What is added to a backend. */
struct late {
    struct backend *be, was;
    struct ops ops;
    struct drawn drawn[SAMPLES_MAX]; /* a ring: so many samples end with the newest */
    uint64_t samples, seen, marks;
    int token[ROWS_MAX]; /* what the newest draw; -1: it is held */
    int kept[ROWS_MAX];  /* of the batch's draws those that were computed */
    int kepts;
    struct batch in; /* without the sequences whose draw is held */
    int32_t in_token[ROWS_MAX];
    int in_begin[ROWS_MAX + 1], in_slot[ROWS_MAX], in_logit[ROWS_MAX];
    uint32_t in_position[ROWS_MAX];
    int in_logged[ROWS_MAX];
    struct flying flying[STEPS_MAX]; /* a ring, as the marks are */
    uint64_t steps, landed;
    struct move pending[PENDING_MAX]; /* a ring: number n is at n % PENDING_MAX */
    uint64_t newest, done;            /* the moves done + 1 to newest are pending */
    uint64_t random;
    int busy; /* so often it will say that it computes */
    atomic_bool hold_moves, hold_step, held, losing;
};

static struct late all[LATE_MAX];
static uint64_t moves, followed, held_back;

/* Of all of them: what is fast memory for one is so for the others. Any thread asks for it. */
static pthread_mutex_t lending = PTHREAD_MUTEX_INITIALIZER;
static struct block {
    const char *from;
    size_t bytes;
} block[BLOCKS_MAX];

/* A late one is found by any thread, made and closed by one. */
static struct late *of(const struct backend *be)
{
    for (int i = 0; i < LATE_MAX; i++)
        if (all[i].be == be)
            return &all[i];
    fail_msg("this backend is not a late one");
    return NULL;
}

static unsigned below(struct late *l, unsigned n)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (unsigned)(l->random >> 33) % n;
}

static void happen_until(struct late *l, uint64_t number)
{
    while (l->done < number) {
        const struct move *m = &l->pending[++l->done % PENDING_MAX];

        if (m->logged)
            l->was.settle(l->be, &m->log, m->slot, m->logged);
        else
            memcpy(m->dst, m->src, m->bytes);
    }
}

static bool is_fast(const void *host)
{
    bool fast = false;

    pthread_mutex_lock(&lending);
    for (int i = 0; i < BLOCKS_MAX && !fast; i++)
        fast = block[i].from && (const char *)host >= block[i].from &&
               (const char *)host < block[i].from + block[i].bytes;
    pthread_mutex_unlock(&lending);
    return fast;
}

static void push(struct late *l, const struct move *m)
{
    if (l->newest - l->done == PENDING_MAX - 1)
        happen_until(l, l->done + 1);
    l->pending[++l->newest % PENDING_MAX] = *m;
}

static uint64_t add(struct backend *be, void *dst, const void *src, size_t bytes, bool fast)
{
    struct late *l = of(be);

    push(l, &(struct move){ .dst = dst, .src = src, .bytes = bytes });
    if (fast) {
        memset(dst, GARBAGE, bytes);
        moves++;
    } else {
        happen_until(l, l->newest);
    }
    return l->newest;
}

/* The garbage would spoil what an earlier move still has to read or write there. */
static bool overlaps_pending(const struct late *l, const void *dst, size_t bytes)
{
    for (uint64_t n = l->done + 1; n <= l->newest; n++) {
        const struct move *m = &l->pending[n % PENDING_MAX];
        const char *p = dst, *a = m->dst, *b = m->src;

        if ((p < a + m->bytes && a < p + bytes) || (p < b + m->bytes && b < p + bytes))
            return true;
    }
    return false;
}

/* Moves are of whole records. */
static void check_landed(const struct late *l, const void *record)
{
    for (uint64_t n = l->landed; n < l->steps; n++) {
        const struct flying *f = &l->flying[n % STEPS_MAX];

        for (int i = 0; i < f->slots; i++)
            assert_true(record != f->records + (size_t)f->slot[i] * f->stride);
    }
}

static uint64_t move_in(struct backend *be, void *dst, const void *src, size_t bytes)
{
    check_landed(of(be), dst);
    if (overlaps_pending(of(be), dst, bytes))
        happen_until(of(be), of(be)->newest);
    return add(be, dst, src, bytes, is_fast(src));
}

static uint64_t move_out(struct backend *be, void *dst, const void *src, size_t bytes)
{
    check_landed(of(be), src);
    if (overlaps_pending(of(be), dst, bytes))
        happen_until(of(be), of(be)->newest);
    return add(be, dst, src, bytes, is_fast(dst));
}

/* Nothing is spoilt before: what is in a slot until then is not the state. */
static uint64_t settle(struct backend *be, const struct state_log *log, int slot, int logged)
{
    struct late *l = of(be);
    const struct flying *f = &l->flying[(l->steps - 1) % STEPS_MAX]; /* there is one pool */
    char *record = (char *)f->records + (size_t)slot * f->stride;

    assert_true(l->steps > 0 && logged > 0);
    check_landed(l, record);
    push(l, &(struct move){ .dst = record,
                            .src = record,
                            .bytes = f->stride,
                            .logged = logged,
                            .log = *log,
                            .slot = slot });
    moves++;
    return l->newest;
}

static bool moved(struct backend *be, uint64_t number, bool wait)
{
    struct late *l = of(be);

    be->lost |= atomic_load(&l->losing);
    if (be->lost)
        return true;
    if (wait)
        happen_until(l, number);
    else if (l->done < number && !atomic_load(&l->hold_moves) && !below(l, 3))
        happen_until(l, l->done + 1);
    return l->done >= number;
}

static void follow(struct backend *be, uint64_t number)
{
    happen_until(of(be), number);
}

static bool is_held(const struct late *l, const struct batch *in, int s)
{
    const int row = in->follows ? in->follows[s] : -1;

    if (row < 0)
        return false;
    assert_int_equal(in->begin[s + 1] - in->begin[s], 1);
    assert_true(l->samples > 0);
    assert_true(row < l->drawn[(l->samples - 1) % SAMPLES_MAX].rows);
    followed++;
    held_back += l->token[row] < 0;
    return l->token[row] < 0;
}

/* One sequence of the batch joins those that are computed, or does not. */
static void add_sequence(struct late *l, const struct batch *from, int s, int *logit)
{
    struct batch *in = &l->in;
    const bool held = is_held(l, from, s);
    const int first = from->begin[s], rows = from->begin[s + 1] - first;

    for (; *logit < from->L && from->logit_row[*logit] < first + rows; ++*logit) {
        if (held)
            continue;
        l->in_logit[in->L++] = from->logit_row[*logit] - first + in->T;
        l->kept[l->kepts++] = *logit;
    }
    if (held)
        return;
    l->in_begin[in->S] = in->T;
    l->in_slot[in->S] = from->slot[s];
    l->in_position[in->S] = from->position ? from->position[s] : 0;
    l->in_logged[in->S] = from->logged ? from->logged[s] : 0;
    memcpy(l->in_token + in->T, from->token + first, (size_t)rows * sizeof(*l->in_token));
    if (from->follows && from->follows[s] >= 0)
        l->in_token[in->T] = l->token[from->follows[s]];
    in->T += rows;
    l->in_begin[++in->S] = in->T;
}

static void take_off(struct late *l, const struct step_key *key)
{
    struct flying *f = &l->flying[l->steps++ % STEPS_MAX];

    assert_true(l->steps - l->landed <= STEPS_MAX);
    *f = (struct flying){ .records = key->records,
                          .stride = model_slot_bytes(key->model),
                          .slots = l->in.S,
                          .mark = l->marks + 1 };
    memcpy(f->slot, l->in_slot, (size_t)l->in.S * sizeof(*f->slot));
}

/* Follows what was drawn: this device has computed it already. */
static const struct batch *begin(struct backend *be, const struct step_key *key,
                                 const struct batch *in)
{
    struct late *l = of(be);
    int logit = 0;

    assert_true(in->T <= ROWS_MAX && in->L <= ROWS_MAX);
    l->in = (struct batch){ .token = l->in_token,
                            .begin = l->in_begin,
                            .slot = l->in_slot,
                            .logit_row = l->in_logit,
                            .position = in->position ? l->in_position : NULL,
                            .logged = in->logged ? l->in_logged : NULL };
    l->kepts = 0;
    for (int s = 0; s < in->S; s++)
        add_sequence(l, in, s, &logit);
    take_off(l, key);
    return l->in.T ? l->was.begin(be, key, &l->in) : NULL;
}

static bool is_to_hold(const struct sample_row *row, const struct sample_result *r)
{
    bool held = !r->finite;

    for (int i = 0; i < row->holds; i++)
        held |= row->hold[i] == r->token;
    return held;
}

static void show(struct late *l, uint64_t mark)
{
    for (; l->seen < l->samples; l->seen++) {
        const struct drawn *d = &l->drawn[l->seen % SAMPLES_MAX];

        if (d->mark > mark)
            return;
        memcpy(d->to, d->result, (size_t)d->rows * sizeof(*d->to));
    }
}

/* Of the logits that were computed; the results of others are garbage. */
static void sample(struct stream *q, const struct sample *p)
{
    struct late *l = all;
    struct sample_row row[ROWS_MAX];
    struct sample_result result[ROWS_MAX];
    struct sample kept = *p;
    struct drawn *d;

    while (!l->be || l->was.stream != q)
        assert_true(++l < all + LATE_MAX);
    assert_true(l->samples - l->seen < SAMPLES_MAX);
    d = &l->drawn[l->samples++ % SAMPLES_MAX];
    *d = (struct drawn){ .to = p->out, .rows = p->rows, .mark = l->marks + 1 };
    memset(d->result, GARBAGE, sizeof(d->result));
    memset(p->out, GARBAGE, (size_t)p->rows * sizeof(*p->out));
    for (int i = 0; i < l->kepts; i++)
        row[i] = p->row[l->kept[i]];
    kept.row = row;
    kept.out = result;
    kept.rows = l->kepts;
    if (l->kepts)
        l->was.ops->sample(q, &kept);
    for (int i = 0; i < p->rows; i++)
        l->token[i] = -1;
    for (int i = 0; i < l->kepts; i++) {
        d->result[l->kept[i]] = result[i];
        l->token[l->kept[i]] = is_to_hold(&row[i], &result[i]) ? -1 : result[i].token;
    }
}

static uint64_t mark(struct backend *be)
{
    return ++of(be)->marks;
}

static bool wait_for(struct backend *be, uint64_t number, struct error *err)
{
    struct late *l = of(be);
    const bool ok = l->was.sync(be, err);

    show(l, number);
    while (l->landed < l->steps && l->flying[l->landed % STEPS_MAX].mark <= number)
        l->landed++;
    return ok;
}

static bool sync_all(struct backend *be, struct error *err)
{
    return wait_for(be, UINT64_MAX, err);
}

static void end(struct backend *be)
{
    struct late *l = of(be);

    l->was.end(be);
    l->busy = (int)below(l, BUSY_MAX);
}

static bool busy(struct backend *be, uint64_t number)
{
    struct late *l = of(be);
    const bool held = atomic_load(&l->hold_step);

    (void)number;

    atomic_store(&l->held, held);
    return held || l->busy-- > 0;
}

static void free_memory(struct backend *be, void *p)
{
    happen_until(of(be), of(be)->newest);
    of(be)->was.free(be, p);
}

static void *alloc_host(struct backend *be, size_t bytes)
{
    void *p = NULL;
    int i = 0;

    (void)be;
    pthread_mutex_lock(&lending);
    while (i < BLOCKS_MAX && block[i].from)
        i++;
    if (i < BLOCKS_MAX) {
        p = malloc(bytes);
        block[i] = (struct block){ p, bytes };
    }
    pthread_mutex_unlock(&lending);
    return p;
}

static void free_host(struct backend *be, void *p, size_t bytes)
{
    happen_until(of(be), of(be)->newest);
    pthread_mutex_lock(&lending);
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (p && block[i].from == p) {
            assert_int_equal(block[i].bytes, bytes);
            block[i].from = NULL;
        }
    pthread_mutex_unlock(&lending);
    free(p);
}

static void destroy(struct backend *be)
{
    struct late *l = of(be);

    l->be = NULL;
    l->was.destroy(be);
}

void late_make(struct backend *be, uint64_t seed)
{
    struct late *l = all;

    while (l->be) {
        l++;
        assert_true(l < all + LATE_MAX);
    }
    memset(l, 0, sizeof(*l));
    l->be = be;
    l->was = *be;
    l->random = seed | 1;
    be->move_in = move_in;
    be->move_out = move_out;
    be->moved = moved;
    be->follow = follow;
    be->settle = settle;
    be->follows = true;
    be->begin = begin;
    be->end = end;
    be->mark = mark;
    be->busy = busy;
    be->wait = wait_for;
    be->sync = sync_all;
    l->ops = *be->ops;
    l->ops.sample = sample;
    be->ops = &l->ops;
    be->free = free_memory;
    be->alloc_host = alloc_host;
    be->free_host = free_host;
    be->destroy = destroy;
}

uint64_t late_moves(void)
{
    return moves;
}

uint64_t late_followed(void)
{
    return followed;
}

uint64_t late_held_back(void)
{
    return held_back;
}

void late_hold_moves(struct backend *be, bool held)
{
    atomic_store(&of(be)->hold_moves, held);
}

void late_hold_step(struct backend *be, bool held)
{
    atomic_store(&of(be)->hold_step, held);
}

bool late_is_held(struct backend *be)
{
    return atomic_load(&of(be)->held);
}

void late_lose(struct backend *be)
{
    atomic_store(&of(be)->losing, true);
}
