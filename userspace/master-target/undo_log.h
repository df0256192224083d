/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_log: a machine's undo log on the retention volume, <retention>/<machine uuid>: which layers there are
 * (undo_format.h), what was marked by the operator, and what is published to readers. Owned by machine.c;
 * undo.c writes new layers, restore.c lays them over the disks, thin.c merges them, points.c shows them.
 *
 * The state file is what decides: it names the log, the committed state, and the layer that may be open. Here nothing is
 * acted upon that the state file does not say.
 *
 *	<retention>/<uuid>/<base>-<last>.undo	layers
 *	<retention>/<uuid>/tail			undo_tail.h
 *	<state>/<uuid>/marks.json		{"<id>": {"pinned": true, "discarded": true, "verified": {...}}}; not on the
 *						retention volume, so that points can be discarded when that is full
 *	<retention>/<uuid>/use/<id>		locked (shared) by whoever reads that state
 *
 * What a state is (the JSON in a layer's head, and "now" in the state file):
 *
 *	{"epoch", "consistent", "kind" ("crash", "app", "epoch": consistent without a tag), "name", "time" (of the cut,
 *	 RFC 3339), "time_ms" (the same, or when it was applied), "applied_ms", "active_ms" (state_describe()),
 *	 "disks": [{"id", "name", "path", "size_bytes"}], "rolled_back": id of the state that it is a copy of (only after a rollback)}
 */
#ifndef MASTER_TARGET_UNDO_LOG_H
#define MASTER_TARGET_UNDO_LOG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "fault.h"
#include "undo_layer.h"
#include "undo_tail.h"

/**
 * struct undo_log - open
 * @chain: its entries, oldest first; state @committed is what the disks are in
 * @bytes: that all files of the chain take
 * @marks: JSON object, never NULL
 */
struct undo_log {
	char path[4096], marks_path[4200];
	int dir;
	uint8_t uuid[UNDO_UUID_BYTES];
	uint64_t committed;
	struct undo_chain chain;
	uint64_t bytes;
	json_t *marks;
	struct undo_tail_page *tail;
};

/**
 * undo_log_open - open (@create: or make) the log @uuid of a machine below @retention
 * @state_dir: of the machine, for the marks
 * @committed: from the state file. Layers that no chain has are removed, but for the one in chain.open.
 * Return: 0 or negative errno with a text in @error.
 */
int undo_log_open(struct undo_log *log, const char *retention, const char *machine, const char *state_dir,
		  const uint8_t uuid[UNDO_UUID_BYTES], uint64_t committed, bool create, char *error, size_t error_bytes);
void undo_log_close(struct undo_log *log);
/** undo_log_sealed - the state @last is committed: its layer (@entry; reference of meta taken over) joins the chain */
int undo_log_sealed(struct undo_log *log, const struct undo_entry *entry);
/** undo_log_committed - the disks are in state @committed without a layer to the one before (then older ones are lost) */
void undo_log_committed(struct undo_log *log, uint64_t committed);
/** undo_log_undone - nothing needs the layer in chain.open any more: tell readers, remove it */
void undo_log_undone(struct undo_log *log);
/**
 * undo_log_forsake - the disks are about to be written without a layer: whoever reads a state gets an error from now on, until
 * undo_log_committed()
 */
void undo_log_forsake(struct undo_log *log);
/** undo_log_entry - the layer that leads back to state @base, or NULL */
struct undo_entry *undo_log_entry(const struct undo_log *log, uint64_t base);
/** undo_log_drop - remove the oldest layer: state chain.entries[0].base can no longer be had. 0 or negative errno */
int undo_log_drop(struct undo_log *log);
/**
 * undo_log_merged - @entry replaces the layers from its base to its last; its file is there, sealed and durable,
 * under its own name. The others are removed. 0 or negative errno.
 */
int undo_log_merged(struct undo_log *log, const struct undo_entry *entry);
/** undo_log_used - whether somebody reads a state; the oldest one in @oldest */
bool undo_log_used(const struct undo_log *log, uint64_t *oldest);
/** undo_log_state_used - whether somebody reads the state @id */
bool undo_log_state_used(const struct undo_log *log, uint64_t id);
/** undo_log_mark - set @key of state @id to @value (taken over; NULL: remove), durably. 0 or negative errno */
int undo_log_mark(struct undo_log *log, uint64_t id, const char *key, json_t *value);
/** undo_log_mark_all - the same for @count states, with @value each (borrowed), in one write */
int undo_log_mark_all(struct undo_log *log, const uint64_t *ids, size_t count, const char *key, json_t *value);
/** undo_log_marked - the value of @key of state @id, or NULL */
const json_t *undo_log_marked(const struct undo_log *log, uint64_t id, const char *key);
/** undo_log_remove - all of it, with its directory; what is open of it is closed as ever */
int undo_log_remove(struct undo_log *log);

#endif
