/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_layer: reading layers of an undo log: one file, and the chain that the files of a directory
 * make (undo_chain.c). Blocking calls. Used by the master target, the export plugin and the command line; none of them
 * changes a layer that is sealed: it is replaced or removed as a whole, and who has it open reads on.
 */
#ifndef REPROTECT_UNDO_LAYER_H
#define REPROTECT_UNDO_LAYER_H

#include <jansson.h>

#include "undo_format.h"
#include "undo_map.h"

/**
 * struct undo_layer - a layer that is open for reading
 * @fd: O_DIRECT where the file system can
 * @sealed: it has a foot: all its records are known and durable
 * @bytes: size of the file
 * @meta: what state <base> is
 */
struct undo_layer {
	int fd;
	bool sealed;
	uint64_t bytes;
	struct undo_head head;
	struct undo_foot foot;
	json_t *meta;
};

/**
 * undo_layer_open - open @name in @dir and check head and foot
 * @log: must be this, or NULL
 * A name that is a layer's (undo_layer_parse()) must be its own. A torn foot is none: it was never counted on.
 * Return: 0, -ENOENT, -ENODATA (no layer, or of another log), -EBADMSG (damaged), -EPROTONOSUPPORT, other negative
 * errno; a text in @error.
 */
int undo_layer_open(struct undo_layer *layer, int dir, const char *name, const uint8_t *log, char *error,
		    size_t error_bytes);
void undo_layer_close(struct undo_layer *layer);

/**
 * undo_layer_records - all records of a sealed layer, sorted; from the index, or where that is damaged,
 * from the batches (said in the log). *@records is malloc()ed.
 * Return: 0; -EBADMSG: neither is whole; other negative errno.
 */
int undo_layer_records(const struct undo_layer *layer, struct undo_record **records, size_t *count);

/**
 * struct undo_scan - how far a layer that is not sealed was read
 * @at: where the next batch would be; @seq: its number
 */
struct undo_scan {
	uint64_t at, seq;
};

/**
 * undo_layer_scan - read on in a layer that is not sealed: batches below @batches_max, appended to *@records, not sorted
 * @scan: zero at first, then what the last call left
 * @batches_max: so many are known to be durable; UINT64_MAX: it is found out
 * @records, @count: NULL and 0, or what another call has made; free() it
 * @content: check the content of the records, too
 * Of a layer that is sealed all batches are known. Return: 0 (at @batches_max, or at a tail that was never durable);
 * -EBADMSG: damaged where it was durable; other negative errno.
 */
int undo_layer_scan(const struct undo_layer *layer, struct undo_scan *scan, uint64_t batches_max, bool content,
		    struct undo_record **records, size_t *count);

/* A record and the rest of the blocks that it begins and ends in. */
#define UNDO_SCRATCH_BYTES (UNDO_RECORD_MAX + UNDO_BLOCK)

/**
 * undo_layer_content - read what @piece says into @out (piece->length bytes), checked
 * @scratch: UNDO_SCRATCH_BYTES, aligned for O_DIRECT. Return: 0; -EBADMSG; other negative errno.
 */
int undo_layer_content(const struct undo_layer *layer, const struct undo_piece *piece, void *scratch, void *out);

/* Where a layer leads, by its name: from state @last back to state @base. */
struct undo_span {
	uint64_t base, last;
};

/**
 * undo_span_list - the layers in @dir that lead back from a state after @after, by their names
 * @spans: free() it. By last; of one last the widest first
 * @other: NULL, or called for each name that is no layer's
 * Return: 0 or negative errno (then there are none, and there is nothing to free)
 */
int undo_span_list(int dir, uint64_t after, struct undo_span **spans, size_t *count, int (*other)(void *user, const char *name),
		   void *user);
/** undo_span_find - index of the first of them that does not lead back from a state before @last */
size_t undo_span_find(const struct undo_span *spans, size_t count, uint64_t last);

/**
 * struct undo_entry - a layer as undo_chain_load() found it
 * @sealed, @bytes: of the file
 * @foot: of a sealed one
 * @meta: of state @base (a reference)
 */
struct undo_entry {
	uint64_t base, last, bytes;
	bool sealed;
	struct undo_foot foot;
	json_t *meta;
};

/**
 * struct undo_chain - the layers of a directory
 * @entries: the chain that ends at the committed state, oldest first; all sealed, each base the last one's last
 * @open: the layer that begins at the committed state, sealed or not, or base 0 and last 0; of several the newest
 * @open_damaged: last state of a (the newest) layer that would be @open but cannot be read, or 0. Not in @stray: if the
 *	disks were being changed under it, it is wanted; else it was torn as it was made.
 * @stray: names of files that belong to no chain: parts of a merge, layers that a wider one replaces, layers
 *	behind a gap. Nothing needs them.
 * @gap: layers are missing or damaged: what is older than entries[0] cannot be had; @why says what
 */
struct undo_chain {
	struct undo_entry *entries;
	size_t count;
	struct undo_entry open;
	uint64_t open_damaged;
	char (*stray)[UNDO_NAME_BYTES];
	size_t stray_count;
	bool gap;
	char why[256];
};

/**
 * undo_chain_load - read the heads and feet of all layers of @log in @dir
 * @committed: the state that the disks are in
 * Return: 0 or negative errno (then there is no chain, but perhaps a text in @why): -EPROTONOSUPPORT: a layer of a newer version
 */
int undo_chain_load(struct undo_chain *chain, int dir, const uint8_t log[UNDO_UUID_BYTES], uint64_t committed);
void undo_chain_clear(struct undo_chain *chain);

#endif
