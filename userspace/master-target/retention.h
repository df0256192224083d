/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * retention: which recovery points are kept. Pure: times and sizes in, decisions out; thin.c acts on them.
 *
 *	point			kept
 *	----------------------------------------------------------------------------------
 *	pinned			always
 *	in use (export)		as long as that
 *	the newest		always
 *	discarded		no longer, unless one of the above
 *	any			keep_all_ms
 *	the last of its hour	keep_hourly_ms
 *	app			keep_app_ms
 *
 * Ages are those of state_describe() ("active_ms"): time in which points came, so that neither a clock that is set nor a source that
 * is silent for days makes points old. Hours are those of UTC. A time of 0 in the policy means that nothing is kept for that reason.
 *
 * By space: more than max_bytes, or less than reserve_bytes free: the oldest that is neither pinned nor in use goes, and
 * with it all that is older; then the next.
 */
#ifndef MASTER_TARGET_RETENTION_H
#define MASTER_TARGET_RETENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RETENTION_MERGE_LAYERS 256u /* merged at once, at most: each is an open file */

/** struct retention_policy - times in ms, sizes in bytes; 0: none (keep_*), unlimited (max_bytes) */
struct retention_policy {
	uint64_t keep_all_ms, keep_hourly_ms, keep_app_ms;
	uint64_t max_bytes, reserve_bytes;
	bool pause_when_full; /* instead of giving up the oldest points */
};

/**
 * struct retention_state - a state that a layer leads to, oldest first
 * @time_ms: of its cut, for its hour
 * @age_ms: see above
 * @point: a consistent one; others only join two layers and are never kept for themselves
 * @bytes: of the layer from it to the next one; of the newest state: not looked at
 * @keep: an answer of retention_decide()
 * @lasting: another: it is kept for more than being younger than keep_all_ms, so what is older than it and not kept
 *	will not be joined by more: it is time to merge all of that
 */
struct retention_state {
	uint64_t id, time_ms, age_ms, bytes;
	bool point, app, pinned, used, discarded, keep, lasting;
};

/** retention_decide - set @keep and @lasting of all @states; the last one is the newest */
void retention_decide(const struct retention_policy *policy, struct retention_state *states, size_t count);

/**
 * struct retention_merge - make one layer of several
 * @first: index of the oldest one: entry i leads from states[i + 1] back to states[i]
 * @count: how many, 2 or more
 */
struct retention_merge {
	size_t first, count;
};

/**
 * retention_next_merge - which layers to merge next, so that each byte is copied a few times at most
 * @count: of states; there is one layer less
 *
 * A state without @keep lies between two layers that can be merged (at the old end they are expired, and not merged).
 * Where the state behind such layers is lasting, all of them become one, unless that copied a large layer for the sake of
 * small ones (together less than a quarter of it). Where more are still to come, eight or more are merged when none of
 * them is more than a quarter of the result, so that a byte is copied once for each time that its layer grows fourfold.
 * Always the smallest result first.
 *
 * Return: whether there is one.
 */
bool retention_next_merge(const struct retention_state *states, size_t count, struct retention_merge *merge);

/** retention_expired_head - how many layers at the old end lead to no state that is kept: they can just be removed */
size_t retention_expired_head(const struct retention_state *states, size_t count);

#endif
