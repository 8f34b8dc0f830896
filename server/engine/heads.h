/* heads.h - sessions and snapshots as the durable store's records, and back.
 *
 * A record's note holds what disk_record.h has no place for: what of a checkpoint is needed
 * without reading its file, and the label or metadata. Engine thread, or whoever opens the
 * engine. */
#ifndef SERVER_ENGINE_HEADS_H
#define SERVER_ENGINE_HEADS_H

#include <stdbool.h>
#include <stddef.h>

struct disk_record;
struct engine;
struct heads;
struct lineage;
struct session;
struct snapshot;

/* All but the kind. false: no memory. */
bool heads_of_session(const struct session *s, struct disk_record *r);
bool heads_of_snapshot(const struct snapshot *s, struct disk_record *r);
/* The mark of a snapshot that is deleted; whole: with everything below it. */
void heads_of_place(const struct lineage *place, bool whole, struct disk_record *r);

/* Which checkpoints were found: sessions and snapshots share theirs. NULL: no memory. */
struct heads *heads_create(void);
void heads_destroy(struct heads *h); /* takes NULL */
/* The record becomes a session or snapshot of the engine, cold, or the gone place of one.
 * false: no memory. */
bool heads_found(struct engine *e, struct heads *h, const struct disk_record *r);
/* Of those, the sessions and snapshots that another model left. */
size_t heads_foreign(const struct heads *h);

#endif
