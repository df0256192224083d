/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tags: what the epochs that were applied promise, as part of a machine's state: the last
 * consistent epoch, its tags, and the list of the last TAGS_MAX tags. Called by apply.c (a TAG came, an epoch
 * is complete) and state.c (load, save). Pure: no I/O.
 *
 *	consistency     when                                                    next
 *	syncing         nothing yet, or an epoch of an initial sync or resync   a consistent epoch: consistent
 *	consistent      the last epoch applied ended as consistent              a fuzzy one: not-consistent
 *	not-consistent  fuzzy epochs came after the last consistent one         a consistent one: consistent
 */
#ifndef MASTER_TARGET_TAGS_H
#define MASTER_TARGET_TAGS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAGS_MAX 64u

/**
 * struct tags - all of it; immutable JSON values, so that a copy of the struct with more references is a snapshot
 * @syncing: no consistent epoch since the initial sync or resync began
 * @consistent_epoch: last epoch that ended as consistent; 0: none
 * @crash, @app: last tag of each kind as it came, or NULL. An app tag is a crash tag, too: the newest
 *	of both is the newest point
 * @list: the last TAGS_MAX tags, oldest first, without the output of scripts; or NULL
 */
struct tags {
	bool syncing;
	uint64_t consistent_epoch;
	json_t *crash, *app, *list;
};

/** tags_parse - the payload of a TAG frame of @epoch. NULL: it makes no sense, and @why says what (static). */
json_t *tags_parse(const void *payload, size_t bytes, uint64_t epoch, const char **why);
/** tags_copy - @to gets references of its own */
void tags_copy(struct tags *to, const struct tags *from);
void tags_clear(struct tags *tags);
/** tags_restart - a new chain of epochs begins: what was promised was of another content */
void tags_restart(struct tags *tags);
/**
 * tags_applied - @epoch is applied: @consistent as its END says, @initial as its BEGIN, @tag or NULL (borrowed)
 * Return: 0 or -ENOMEM, then nothing has changed.
 */
int tags_applied(struct tags *tags, uint64_t epoch, bool consistent, bool initial, json_t *tag);
/** tags_consistency - the word of the table above */
const char *tags_consistency(const struct tags *tags, uint64_t last_applied);
/** tags_save - a value for the state file */
json_t *tags_save(const struct tags *tags);
/** tags_load - read it; what is missing (a file of an older release) counts as syncing */
void tags_load(struct tags *tags, const json_t *json);

#endif
