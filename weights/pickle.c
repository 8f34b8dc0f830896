/* pickle.c - a stack machine whose only products are tensor descriptions.
 *
 * Values are 16 bytes and point into the pickle (strings), into `items` (tuples) or are
 * numbers of tensors and dictionaries, so nothing is freed one by one. All tables grow with
 * the bytes that were read: a short pickle cannot ask for much. */
#include "weights/pickle.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/limits.h"
#include "weights/weights_internal.h"

enum kind { MARK, NONE, BOOL, INT, STRING, GLOBAL, TUPLE, DICT, STORAGE, TENSOR };

struct value {
    enum kind kind;
    uint32_t length; /* TUPLE, STORAGE */
    union {
        int64_t number;  /* INT */
        uint32_t string; /* offset in bytes */
        uint32_t global; /* index in globals */
        uint32_t first;  /* TUPLE, STORAGE: index in items */
        uint32_t dict;   /* 0, 1, .. */
        uint32_t tensor; /* index in tensors */
    };
};

struct values {
    struct value *v;
    size_t count, room;
};

struct machine {
    char *bytes;
    size_t len, at;
    int arg; /* the opcode's, from its row in opcodes[] */
    const char *path;
    struct error *err;
    struct values stack, memo, items;
    struct values pairs; /* dict, key, value; dict, key, value; .. */
    struct pickle_tensor *tensors;
    size_t tensor_count, tensor_room;
    uint32_t dict_count;
    bool stopped;
};

enum call { CALL_TENSOR, CALL_PARAMETER, CALL_DICT, CALL_NEVER };

static const struct {
    const char *module, *name;
    enum call call;
    enum dtype dtype; /* of storages */
} globals[] = {
    { "torch._utils", "_rebuild_tensor_v2", CALL_TENSOR, DTYPE_COUNT },
    { "torch._utils", "_rebuild_parameter", CALL_PARAMETER, DTYPE_COUNT },
    { "collections", "OrderedDict", CALL_DICT, DTYPE_COUNT },
    { "torch", "FloatStorage", CALL_NEVER, DTYPE_F32 },
    { "torch", "HalfStorage", CALL_NEVER, DTYPE_F16 },
    { "torch", "BFloat16Storage", CALL_NEVER, DTYPE_BF16 },
    { "torch", "LongStorage", CALL_NEVER, DTYPE_I64 },
};

static bool refuse(struct machine *m, const char *what)
{
    error_set(m->err, ERR_FORMAT, "%.200s: invalid pickle: byte %zu: %s", m->path, m->at, what);
    return false;
}

static bool out_of_memory(struct machine *m)
{
    error_set(m->err, ERR_NOMEM, "%.200s: out of memory", m->path);
    return false;
}

static bool append(struct machine *m, struct values *to, struct value v)
{
    if (to->count == to->room) {
        size_t room = to->room ? 2 * to->room : 64;
        struct value *grown = realloc(to->v, room * sizeof(*grown));

        if (!grown)
            return out_of_memory(m);
        to->v = grown;
        to->room = room;
    }
    to->v[to->count++] = v;
    return true;
}

static bool push(struct machine *m, struct value v)
{
    return append(m, &m->stack, v);
}

static bool push_int(struct machine *m, int64_t number)
{
    return push(m, (struct value){ .kind = INT, .number = number });
}

/* Never a mark: those are taken with what stands on them. */
static bool pop(struct machine *m, struct value *v)
{
    if (m->stack.count == 0 || m->stack.v[m->stack.count - 1].kind == MARK)
        return refuse(m, "expected a value on the stack, found none");
    *v = m->stack.v[--m->stack.count];
    return true;
}

/* Cuts the stack at its highest mark: *from is the first of the *n values that stood on it,
 * and stays readable until the next push. */
static bool pop_to_mark(struct machine *m, const struct value **from, size_t *n)
{
    size_t i = m->stack.count;

    while (i > 0 && m->stack.v[i - 1].kind != MARK)
        i--;
    if (i == 0)
        return refuse(m, "expected a mark on the stack, found none");
    *from = m->stack.v + i;
    *n = m->stack.count - i;
    m->stack.count = i - 1;
    return true;
}

static bool take(struct machine *m, size_t n, const char **bytes)
{
    if (n > m->len - m->at)
        return refuse(m, "expected more bytes, found its end");
    *bytes = m->bytes + m->at;
    m->at += n;
    return true;
}

static bool take_uint(struct machine *m, int bytes, uint64_t *out)
{
    const char *p;
    uint64_t u = 0;

    if (!take(m, (size_t)bytes, &p))
        return false;
    for (int i = bytes - 1; i >= 0; i--)
        u = u << 8 | (unsigned char)p[i];
    *out = u;
    return true;
}

/* The text is moved one byte down, over its length, and ends in a NUL. */
static bool run_text(struct machine *m)
{
    const char *p;
    uint64_t n;
    char *to;

    if (!take_uint(m, m->arg, &n) || !take(m, n, &p))
        return false;
    if (memchr(p, '\0', n))
        return refuse(m, "expected a string without NUL, found one");
    to = m->bytes + (p - m->bytes) - 1;
    memmove(to, p, n);
    to[n] = '\0';
    return push(m, (struct value){ .kind = STRING, .string = (uint32_t)(to - m->bytes) });
}

static bool push_global(struct machine *m, const char *module, const char *name)
{
    for (uint32_t i = 0; i < sizeof(globals) / sizeof(*globals); i++)
        if (strcmp(globals[i].module, module) == 0 && strcmp(globals[i].name, name) == 0)
            return push(m, (struct value){ .kind = GLOBAL, .global = i });
    return error_set(m->err, ERR_FORMAT,
                     "%.200s: invalid pickle: %.80s.%.80s is not allowed: expected a dictionary of "
                     "F32, F16, BF16 or I64 tensors",
                     m->path, module, name);
}

static bool take_line(struct machine *m, const char **line)
{
    char *p = m->bytes + m->at, *end = memchr(p, '\n', m->len - m->at);

    if (!end)
        return refuse(m, "expected a line, found its end");
    *end = '\0';
    *line = p;
    m->at += (size_t)(end - p) + 1;
    return true;
}

static bool push_tuple(struct machine *m, const struct value *from, size_t n)
{
    uint32_t first = (uint32_t)m->items.count;

    for (size_t i = 0; i < n; i++)
        if (!append(m, &m->items, from[i]))
            return false;
    return push(m, (struct value){ .kind = TUPLE, .length = (uint32_t)n, .first = first });
}

static bool set_pairs(struct machine *m, const struct value *from, size_t n)
{
    struct value dict;

    if (n % 2)
        return refuse(m, "expected keys with values, found an odd number");
    if (m->stack.count == 0 || m->stack.v[m->stack.count - 1].kind != DICT)
        return refuse(m, "expected a dictionary, found another value");
    dict = m->stack.v[m->stack.count - 1];
    for (size_t i = 0; i < n; i += 2)
        if (!append(m, &m->pairs, dict) || !append(m, &m->pairs, from[i]) ||
            !append(m, &m->pairs, from[i + 1]))
            return false;
    return true;
}

/* Whole numbers of a shape or of strides. */
static bool take_dims(struct machine *m, const struct value *tuple, int64_t dims[TENSOR_MAX_RANK])
{
    if (tuple->kind != TUPLE || tuple->length > TENSOR_MAX_RANK)
        return refuse(m, "expected a tuple of at most 8 dimensions, found another value");
    for (uint32_t i = 0; i < tuple->length; i++) {
        const struct value *v = &m->items.v[tuple->first + i];

        if (v->kind != INT || v->number < 0)
            return refuse(m, "expected a dimension from 0 on, found another value");
        dims[i] = v->number;
    }
    return true;
}

/* Strides of dimensions of one element mean nothing, and none do in an empty tensor. */
static bool is_row_major(const struct tensor *t, const int64_t stride[TENSOR_MAX_RANK])
{
    int64_t run = 1;

    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->bytes > 0 && t->shape[i] != 1 && stride[i] != run)
            return false;
        run *= t->shape[i] ? t->shape[i] : 1; /* tensor_bytes() has seen no overflow */
    }
    return true;
}

static bool describe_tensor(struct machine *m, const struct value *a, struct pickle_tensor *p)
{
    const struct value *storage;
    struct tensor *t = &p->tensor;
    int64_t stride[TENSOR_MAX_RANK];
    uint64_t elements, end;

    if (a[0].kind != STORAGE || a[1].kind != INT || a[1].number < 0)
        return refuse(m, "expected a storage and an offset, found other values");
    storage = &m->items.v[a[0].first];
    t->dtype = globals[storage[1].global].dtype;
    p->storage = m->bytes + storage[2].string;
    p->elements = (uint64_t)storage[4].number;
    p->first = (uint64_t)a[1].number;
    if (!take_dims(m, &a[2], t->shape) || !take_dims(m, &a[3], stride))
        return false;
    if (a[2].length != a[3].length)
        return refuse(m, "expected as many strides as dimensions, found another number");
    t->rank = (int)a[2].length;
    if (!tensor_bytes(t, &t->bytes) || t->bytes > INT64_MAX)
        return refuse(m, "shape overflow: expected fewer than 2^63 bytes, found more");
    if (!is_row_major(t, stride))
        return refuse(m, "expected a contiguous row-major tensor, found other strides");
    elements = t->bytes / dtype_size(t->dtype);
    if (__builtin_add_overflow(p->first, elements, &end) || end > p->elements)
        return refuse(m, "expected a tensor inside its storage, found one beyond its end");
    return true;
}

static bool call_tensor(struct machine *m, const struct value *args)
{
    struct pickle_tensor p = { 0 };

    if (args->length < 6 || args->length > 7)
        return refuse(m, "expected 6 or 7 arguments of a tensor, found another number");
    if (!describe_tensor(m, &m->items.v[args->first], &p))
        return false;
    if (m->tensor_count == LIMIT_TENSORS)
        return refuse(m, "expected at most as many tensors as limits.h says, found more");
    if (m->tensor_count == m->tensor_room) {
        size_t room = m->tensor_room ? 2 * m->tensor_room : 256;
        struct pickle_tensor *grown = realloc(m->tensors, room * sizeof(*grown));

        if (!grown)
            return out_of_memory(m);
        m->tensors = grown;
        m->tensor_room = room;
    }
    m->tensors[m->tensor_count++] = p;
    return push(m, (struct value){ .kind = TENSOR, .tensor = (uint32_t)m->tensor_count - 1 });
}

static bool push_dict(struct machine *m)
{
    return push(m, (struct value){ .kind = DICT, .dict = m->dict_count++ });
}

static bool run_reduce(struct machine *m)
{
    struct value args, f;

    if (!pop(m, &args) || !pop(m, &f))
        return false;
    if (f.kind != GLOBAL || args.kind != TUPLE)
        return refuse(m, "expected a global and its arguments, found other values");
    switch (globals[f.global].call) {
    case CALL_TENSOR:
        return call_tensor(m, &args);
    case CALL_PARAMETER: /* (tensor, requires_grad, hooks) */
        if (args.length != 3 || m->items.v[args.first].kind != TENSOR)
            return refuse(m, "expected a tensor as parameter, found another value");
        return push(m, m->items.v[args.first]);
    case CALL_DICT:
        if (args.length != 0)
            return refuse(m, "expected an empty OrderedDict, found arguments");
        return push_dict(m);
    case CALL_NEVER:
        break;
    }
    return refuse(m, "expected a function, found a storage type");
}

/* ('storage', type, key, device, elements) */
static bool run_binpersid(struct machine *m)
{
    struct value id;
    const struct value *v;

    if (!pop(m, &id))
        return false;
    if (id.kind != TUPLE || id.length != 5)
        return refuse(m, "expected a storage as persistent id, found another value");
    v = &m->items.v[id.first];
    if (v[0].kind != STRING || strcmp(m->bytes + v[0].string, "storage") != 0 ||
        v[1].kind != GLOBAL || globals[v[1].global].dtype == DTYPE_COUNT || v[2].kind != STRING ||
        v[4].kind != INT || v[4].number < 0)
        return refuse(m, "expected a storage as persistent id, found another value");
    id.kind = STORAGE;
    return push(m, id);
}

static bool run_proto(struct machine *m)
{
    uint64_t version;

    if (!take_uint(m, 1, &version))
        return false;
    return (version >= 2 && version <= 5) || refuse(m, "expected protocol 2 to 5, found another");
}

static bool run_stop(struct machine *m)
{
    m->stopped = true;
    return true;
}

/* Two's complement of up to 8 bytes. */
static bool run_long1(struct machine *m)
{
    uint64_t n, u = 0;

    if (!take_uint(m, 1, &n))
        return false;
    if (n > 8)
        return refuse(m, "expected a number of at most 64 bits, found a longer one");
    if (!take_uint(m, (int)n, &u))
        return false;
    if (n > 0 && n < 8 && u >> (8 * n - 1))
        u |= UINT64_MAX << 8 * n;
    return push_int(m, (int64_t)u);
}

/* A value that needs no more than its kind. */
static bool run_constant(struct machine *m)
{
    return push(m, (struct value){ .kind = (enum kind)m->arg });
}

static bool run_skip(struct machine *m)
{
    const char *skipped;

    return take(m, (size_t)m->arg, &skipped);
}

static bool run_uint(struct machine *m)
{
    uint64_t u;

    return take_uint(m, m->arg, &u) && push_int(m, (int64_t)u);
}

static bool run_int32(struct machine *m)
{
    uint64_t u;

    return take_uint(m, 4, &u) && push_int(m, (int32_t)(uint32_t)u);
}

/* The number of the memo's place has m->arg bytes; MEMOIZE has none and takes the next. */
static bool run_put(struct machine *m)
{
    uint64_t i = m->memo.count;
    struct value v;

    if (m->arg > 0 && !take_uint(m, m->arg, &i))
        return false;
    if (!pop(m, &v) || !push(m, v))
        return false;
    if (i > m->memo.count) /* picklers number from 0 on: no gaps, so no large tables */
        return refuse(m, "expected the next memo number, found a later one");
    if (i == m->memo.count)
        return append(m, &m->memo, v);
    m->memo.v[i] = v;
    return true;
}

static bool run_get(struct machine *m)
{
    uint64_t i;

    if (!take_uint(m, m->arg, &i))
        return false;
    if (i >= m->memo.count)
        return refuse(m, "expected a memo that was put, found another number");
    return push(m, m->memo.v[i]);
}

static bool run_small_tuple(struct machine *m)
{
    struct value v[3];

    for (int i = m->arg; i-- > 0;)
        if (!pop(m, &v[i]))
            return false;
    return push_tuple(m, v, (size_t)m->arg);
}

static bool run_global(struct machine *m)
{
    const char *module, *name;

    return take_line(m, &module) && take_line(m, &name) && push_global(m, module, name);
}

static bool run_stack_global(struct machine *m)
{
    struct value module, name;

    if (!pop(m, &name) || !pop(m, &module))
        return false;
    if (module.kind != STRING || name.kind != STRING)
        return refuse(m, "expected a module and a name, found other values");
    return push_global(m, m->bytes + module.string, m->bytes + name.string);
}

static bool run_tuple(struct machine *m)
{
    const struct value *from;
    size_t n;

    return pop_to_mark(m, &from, &n) && push_tuple(m, from, n);
}

static bool run_setitem(struct machine *m)
{
    struct value pair[2];

    return pop(m, &pair[1]) && pop(m, &pair[0]) && set_pairs(m, pair, 2);
}

static bool run_setitems(struct machine *m)
{
    const struct value *from;
    size_t n;

    return pop_to_mark(m, &from, &n) && set_pairs(m, from, n);
}

/* Attributes of a dictionary (an OrderedDict's _metadata): read and left aside. */
static bool run_build(struct machine *m)
{
    struct value state, object;

    if (!pop(m, &state) || !pop(m, &object))
        return false;
    if (state.kind != DICT || object.kind != DICT)
        return refuse(m, "expected attributes of a dictionary, found other values");
    return push(m, object);
}

/* Those without a function are known only to be refused by name. */
static const struct {
    unsigned char code;
    const char *name;
    bool (*run)(struct machine *m);
    int arg;
} opcodes[] = {
    { 0x80, "PROTO", run_proto, 0 },
    { 0x95, "FRAME", run_skip, 8 },
    { '.', "STOP", run_stop, 0 },
    { '(', "MARK", run_constant, MARK },
    { 'N', "NONE", run_constant, NONE },
    { 0x88, "NEWTRUE", run_constant, BOOL },
    { 0x89, "NEWFALSE", run_constant, BOOL },
    { 'J', "BININT", run_int32, 0 },
    { 'K', "BININT1", run_uint, 1 },
    { 'M', "BININT2", run_uint, 2 },
    { 0x8a, "LONG1", run_long1, 0 },
    { 'X', "BINUNICODE", run_text, 4 },
    { 0x8c, "SHORT_BINUNICODE", run_text, 1 },
    { 'c', "GLOBAL", run_global, 0 },
    { 0x93, "STACK_GLOBAL", run_stack_global, 0 },
    { ')', "EMPTY_TUPLE", run_small_tuple, 0 },
    { 0x85, "TUPLE1", run_small_tuple, 1 },
    { 0x86, "TUPLE2", run_small_tuple, 2 },
    { 0x87, "TUPLE3", run_small_tuple, 3 },
    { 't', "TUPLE", run_tuple, 0 },
    { '}', "EMPTY_DICT", push_dict, 0 },
    { 's', "SETITEM", run_setitem, 0 },
    { 'u', "SETITEMS", run_setitems, 0 },
    { 'R', "REDUCE", run_reduce, 0 },
    { 'b', "BUILD", run_build, 0 },
    { 'Q', "BINPERSID", run_binpersid, 0 },
    { 'q', "BINPUT", run_put, 1 },
    { 'r', "LONG_BINPUT", run_put, 4 },
    { 0x94, "MEMOIZE", run_put, 0 },
    { 'h', "BINGET", run_get, 1 },
    { 'j', "LONG_BINGET", run_get, 4 },
    { 'i', "INST", NULL, 0 },
    { 'o', "OBJ", NULL, 0 },
    { 0x81, "NEWOBJ", NULL, 0 },
    { 0x92, "NEWOBJ_EX", NULL, 0 },
    { 0x82, "EXT1", NULL, 0 },
    { 0x83, "EXT2", NULL, 0 },
    { 0x84, "EXT4", NULL, 0 },
    { 'P', "PERSID", NULL, 0 },
    { ']', "EMPTY_LIST", NULL, 0 },
    { 'G', "BINFLOAT", NULL, 0 },
};

static bool run_opcode(struct machine *m)
{
    uint64_t code;
    const char *name = "unknown";

    if (!take_uint(m, 1, &code))
        return false;
    for (size_t i = 0; i < sizeof(opcodes) / sizeof(*opcodes); i++) {
        if (opcodes[i].code != code)
            continue;
        m->arg = opcodes[i].arg;
        if (opcodes[i].run)
            return opcodes[i].run(m);
        name = opcodes[i].name;
    }
    return error_set(
        m->err, ERR_FORMAT,
        "%.200s: invalid pickle: byte %zu: opcode 0x%02x (%s) is not allowed: expected "
        "those of a dictionary of tensors",
        m->path, m->at - 1, (unsigned)code, name);
}

/* The pairs of the dictionary that the pickle ends with. */
static struct pickle_tensor *take_root(struct machine *m, size_t *count)
{
    const struct value *root = m->stack.v, *v = m->pairs.v;
    size_t n = 0;
    struct pickle_tensor *list;

    if (m->stack.count != 1 || root->kind != DICT) {
        refuse(m, "expected one dictionary of tensors, found another value");
        return NULL;
    }
    list = malloc((m->pairs.count / 3 + 1) * sizeof(*list));
    if (!list) {
        out_of_memory(m);
        return NULL;
    }
    for (size_t i = 0; i < m->pairs.count; i += 3) {
        if (v[i].dict != root->dict)
            continue;
        if (v[i + 1].kind != STRING || v[i + 2].kind != TENSOR) {
            error_set(m->err, ERR_FORMAT,
                      "%.200s: invalid pickle: %.100s: expected a tensor, found another value",
                      m->path,
                      v[i + 1].kind == STRING ? m->bytes + v[i + 1].string : "a key is no string");
            free(list);
            return NULL;
        }
        list[n] = m->tensors[v[i + 2].tensor];
        list[n++].tensor.name = m->bytes + v[i + 1].string;
    }
    *count = n;
    return list;
}

struct pickle_tensor *pickle_take_tensors(char *bytes, size_t len, const char *path, size_t *count,
                                          struct error *err)
{
    struct machine m = { .bytes = bytes, .len = len, .path = path, .err = err };
    struct pickle_tensor *list = NULL;
    bool ok = true;

    assert(len <= UINT32_MAX);
    while (ok && !m.stopped)
        ok = run_opcode(&m);
    if (ok)
        list = take_root(&m, count);
    free(m.stack.v);
    free(m.memo.v);
    free(m.items.v);
    free(m.pairs.v);
    free(m.tensors);
    return list;
}
