// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * retention: see retention.h. Two questions, each answered in one pass: which states are kept, and which of the layers
 * between the others to merge.
 *
 * Merging is a matter of patience. To merge each layer as it expires would copy the hour's layer 720 times; so
 * layers gather until eight are of a kind, and the leftovers are merged once, when a state that stays ends their row.
 */
#include "retention.h"

#define HOUR_MS 3600000u
#define NO_HOUR UINT64_MAX
#define GATHER 8u /* layers of a kind before they are merged */

/* ---- which states are kept ---------------------------------------------------- */

/* @hour: of the next younger point; NO_HOUR: there is none. */
static void decide(const struct retention_policy *policy, struct retention_state *state, uint64_t *hour)
{
	bool offered = state->point && !state->discarded;
	bool last_of_hour = offered && *hour != state->time_ms / HOUR_MS;

	if (offered)
		*hour = state->time_ms / HOUR_MS;
	state->lasting = state->pinned || (last_of_hour && state->age_ms < policy->keep_hourly_ms) ||
			 (offered && state->app && state->age_ms < policy->keep_app_ms);
	state->keep = state->lasting || state->used || (offered && state->age_ms < policy->keep_all_ms);
}

void retention_decide(const struct retention_policy *policy, struct retention_state *states, size_t count)
{
	uint64_t hour = NO_HOUR;

	for (size_t i = count; i-- > 0;)
		decide(policy, &states[i], &hour);
	if (count)
		states[count - 1].keep = true;
}

size_t retention_expired_head(const struct retention_state *states, size_t count)
{
	size_t i = 0;

	while (i + 1 < count && !states[i].keep)
		i++;
	return i;
}

/* ---- what to merge ------------------------------------------------------------ */

/* Layers that follow each other: [first, first + count). */
struct row {
	size_t first, count, largest; /* index of the largest one */
	uint64_t bytes;
};

static struct row row_of(const struct retention_state *states, size_t first, size_t count)
{
	struct row row = { .first = first, .count = count, .largest = first };

	for (size_t i = first; i < first + count; i++) {
		row.bytes += states[i].bytes;
		if (states[i].bytes > states[row.largest].bytes)
			row.largest = i;
	}
	return row;
}

struct best {
	bool found;
	uint64_t bytes;
	struct retention_merge merge;
};

static void offer(struct best *best, const struct row *row)
{
	if (best->found && best->bytes <= row->bytes)
		return;
	best->found = true;
	best->bytes = row->bytes;
	best->merge.first = row->first;
	best->merge.count = row->count;
}

/* Windows of 8, 16, 32, ... layers in which none is more than a quarter. */
static void look_for_a_kind(const struct retention_state *states, size_t first, size_t count, struct best *best)
{
	for (size_t window = GATHER; window <= count && window <= RETENTION_MERGE_LAYERS; window *= 2) {
		struct row row = row_of(states, first, window);

		for (;;) {
			if (states[row.largest].bytes <= row.bytes / 4)
				offer(best, &row);
			if (row.first + window == first + count)
				break;
			row.bytes -= states[row.first].bytes;
			row.bytes += states[row.first + window].bytes;
			row.first++;
			if (row.largest < row.first)
				row = row_of(states, row.first, window);
			else if (states[row.first + window - 1].bytes > states[row.largest].bytes)
				row.largest = row.first + window - 1;
		}
	}
}

/* All of a row that nothing will be added to; where one layer is most of it, what is on either side of that. */
static void look_at_all(const struct retention_state *states, size_t first, size_t count, struct best *best)
{
	while (count >= 2) {
		struct row row = row_of(states, first, count < RETENTION_MERGE_LAYERS ? count : RETENTION_MERGE_LAYERS);
		uint64_t rest = row.bytes - states[row.largest].bytes;

		if (rest >= states[row.largest].bytes / 4) {
			offer(best, &row);
			return;
		}
		look_at_all(states, first, row.largest - first, best);
		count -= row.largest + 1 - first;
		first = row.largest + 1;
	}
}

bool retention_next_merge(const struct retention_state *states, size_t count, struct retention_merge *merge)
{
	struct best best = { .found = false };
	size_t end;

	for (size_t first = retention_expired_head(states, count); first + 2 < count; first = end) {
		for (end = first + 1; end + 1 < count && !states[end].keep;)
			end++;
		if (end - first < 2)
			continue;
		if (states[end].lasting)
			look_at_all(states, first, end - first, &best);
		else
			look_for_a_kind(states, first, end - first, &best);
	}
	if (best.found)
		*merge = best.merge;
	return best.found;
}
