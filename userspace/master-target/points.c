// SPDX-License-Identifier: GPL-2.0-or-later
/* points: see points.h. Reads the log's entries and marks, changes nothing. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "points.h"
#include "util.h"
#include "wall_time.h"

#define AHEAD_MS 60000u /* how far the clock of a protected machine may be ahead of ours */
#define NAMED_MAX 5u	/* ids in a message */

/* ---- collect ---------------------------------------------------------------- */

static uint64_t number(const json_t *json, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(json, key));

	return value > 0 ? (uint64_t)value : 0;
}

static const char *text(const json_t *json, const char *key)
{
	const char *value = json_string_value(json_object_get(json, key));

	return value ? value : "";
}

static const json_t *meta_disk(const json_t *meta, const struct state_disk *disk)
{
	const json_t *json;
	size_t i;

	json_array_foreach(json_object_get(meta, "disks"), i, json)
		if (number(json, "id") == disk->id && !strcmp(text(json, "name"), disk->name))
			return json;
	return NULL;
}

static void check_complete(struct point *point, const struct state *state)
{
	point->complete = false;
	for (size_t i = 0; i < state->disk_count; i++) {
		const struct state_disk *disk = &state->disks[i];
		const json_t *then = meta_disk(point->meta, disk);

		if (!then) {
			snprintf(point->why, sizeof(point->why), "disk %.150s is not in it", disk->name);
			return;
		}
		if (number(then, "size_bytes") > disk->source_bytes) {
			snprintf(point->why, sizeof(point->why), "disk %.100s was larger then (%" PRIu64
				 " bytes, now %" PRIu64 ")", disk->name, number(then, "size_bytes"),
				 disk->source_bytes);
			return;
		}
	}
	point->complete = true;
}

static bool marked(const struct undo_log *log, uint64_t id, const char *key)
{
	return log && json_is_true(undo_log_marked(log, id, key));
}

/* Fill @point with the state @id. false: it is none that is offered. */
static bool offer(struct point *point, const struct undo_log *log, const struct state *state, uint64_t id,
		  const json_t *meta, uint64_t bytes)
{
	const json_t *verified = log ? undo_log_marked(log, id, "verified") : NULL;

	memset(point, 0, sizeof(*point));
	point->id = id;
	point->meta = meta;
	point->bytes = bytes;
	point->time_ms = number(meta, "time_ms");
	point->epoch = number(meta, "epoch");
	point->copy_of = number(meta, "rolled_back");
	point->consistent = json_is_true(json_object_get(meta, "consistent"));
	point->app = point->consistent && !strcmp(text(meta, "kind"), "app");
	point->before_rollback = id && id == state->rollback_from;
	point->pinned = marked(log, id, "pinned");
	point->verified = json_is_object(verified) ? verified : NULL;
	check_complete(point, state);
	return (point->consistent || point->before_rollback) && !marked(log, id, "discarded");
}

int points_collect(struct points *points, const struct undo_log *log, const struct state *state)
{
	size_t entries = log ? log->chain.count : 0;
	struct point *next;

	points->count = 0;
	points->points = calloc(entries + 1, sizeof(*points->points));
	if (!points->points)
		return -ENOMEM;
	for (size_t i = 0; i < entries; i++) {
		const struct undo_entry *entry = &log->chain.entries[i];

		next = &points->points[points->count];
		points->count += offer(next, log, state, entry->base, entry->meta, entry->bytes);
	}
	/* Without an undo log nobody takes back what an epoch has begun to overwrite. */
	if (!state->now || (!log && state->between))
		return 0;
	next = &points->points[points->count];
	if (offer(next, log, state, log ? log->committed : state->number, state->now, 0)) {
		next->present = true;
		points->count++;
	}
	return 0;
}

void points_clear(struct points *points)
{
	free(points->points);
	memset(points, 0, sizeof(*points));
}

/* ---- as text ---------------------------------------------------------------- */

const char *point_text(const struct point *point, char *out, size_t out_bytes)
{
	const char *name = text(point->meta, "name");
	char time[WALL_TIME_BYTES];

	wall_time_text(point->time_ms, time);
	if (*name)
		snprintf(out, out_bytes, "#%" PRIu64 " \"%.64s\" (%s)", point->id, name, time);
	else
		snprintf(out, out_bytes, "#%" PRIu64 " (%s)", point->id, time);
	return out;
}

json_t *point_json(const struct point *point, uint64_t now_ms)
{
	const json_t *meta = point->meta;
	const char *name = text(meta, "name"), *why = point->why;
	json_t *disks = json_object_get(meta, "disks");
	char time[WALL_TIME_BYTES];
	uint64_t age_ms = now_ms > point->time_ms ? now_ms - point->time_ms : 0;

	wall_time_rfc3339(point->time_ms, time);
	return json_pack("{s:I, s:s, s:s?, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:s?, s:b, s:O?, s:b, s:I, s:o}",
			 "id", (json_int_t)point->id, "kind",
			 !point->consistent ? "none" : point->app ? "app" : "crash", "name",
			 *name ? name : NULL, "time", *text(meta, "time") ? text(meta, "time") : time, "time_ms",
			 (json_int_t)point->time_ms, "epoch", (json_int_t)point->epoch, "applied_ms",
			 (json_int_t)number(meta, "applied_ms"), "age_ms", (json_int_t)age_ms, "size_bytes",
			 (json_int_t)point->bytes, "present", point->present, "consistent", point->consistent,
			 "complete", point->complete, "why", *why ? why : NULL, "pinned", point->pinned,
			 "verified", (json_t *)(uintptr_t)point->verified, "before_rollback",
			 point->before_rollback, "copy_of", (json_int_t)point->copy_of, "disks",
			 json_is_array(disks) ? json_incref(disks) : json_array());
}

/* ---- select ----------------------------------------------------------------- */

/*
 * struct wanted - what a selector is looked up with
 * @whole: only complete points
 */
struct wanted {
	const struct points *points;
	const char *selector;
	bool whole;
	struct fault *fault;
};

/* For what is not asked for by id: what cannot be exact is not offered (P3). */
static bool fits(const struct wanted *wanted, const struct point *point)
{
	return point->consistent && (point->complete || !wanted->whole);
}

static const char *named(const char *selector, const struct point *point, char *out, size_t bytes)
{
	char what[160];

	snprintf(out, bytes, "%s %s", selector, point_text(point, what, sizeof(what)));
	return out;
}

/* What there is: the oldest and the newest point. */
static const char *range_text(const struct points *points, char *out, size_t bytes)
{
	char oldest[160], newest[160];

	if (!points->count)
		snprintf(out, bytes, "there is none yet");
	else if (points->count == 1)
		named("the only one is", &points->points[0], out, bytes);
	else
		snprintf(out, bytes, "the oldest is %s, the newest %s",
			 point_text(&points->points[0], oldest, sizeof(oldest)),
			 point_text(&points->points[points->count - 1], newest, sizeof(newest)));
	return out;
}

#define LIST_REMEDY "see: reprotect points list"
#define NONE_REMEDY                                                                                                    \
	"a point comes with every consistent epoch; reprotect status on the protected machine says why there is none"

static const struct point *none(const struct wanted *wanted, const char *cause)
{
	char range[400];

	fault_set(wanted->fault, 0, "no-point", true, wanted->points->count ? LIST_REMEDY : NONE_REMEDY,
		  "point %.100s: %s; %s", wanted->selector, cause,
		  range_text(wanted->points, range, sizeof(range)));
	return NULL;
}

/* "before it #3 ...; after it #9 ...": the points next to state @id. Empty: there are none. */
static const char *near_text(const struct points *points, uint64_t id, bool complete, char *out, size_t bytes)
{
	const struct point *before = NULL, *after = NULL;
	char low[190] = "", high[190] = "";

	for (size_t i = 0; i < points->count; i++) {
		const struct point *point = &points->points[i];

		if (complete && !(point->complete && point->consistent))
			continue;
		if (point->id < id)
			before = point;
		else if (point->id > id && !after)
			after = point;
	}
	if (before)
		named("before it", before, low, sizeof(low));
	if (after)
		named("after it", after, high, sizeof(high));
	snprintf(out, bytes, "%s%s%s", low, before && after ? "; " : "", high);
	return out;
}

/* The one found, unless it lacks a disk and all are wanted. */
static const struct point *checked(const struct wanted *wanted, const struct point *point)
{
	char what[160], near[400];

	if (point->complete || !wanted->whole)
		return point;
	near_text(wanted->points, point->id, true, near, sizeof(near));
	fault_set(wanted->fault, 0, "no-point", true, "choose a point that has every disk, or export single disks of it",
		  "point %s: %s; points with every disk: %s", point_text(point, what, sizeof(what)), point->why,
		  *near ? near : "none");
	return NULL;
}

/* By epoch, not by the order of the log, in which a rollback puts old content last. Of the same the last: it may be the present. */
static const struct point *latest(const struct wanted *wanted, bool app)
{
	const struct points *points = wanted->points;
	const struct point *best = NULL;

	for (size_t i = 0; i < points->count; i++) {
		const struct point *point = &points->points[i];

		if (!fits(wanted, point) || (app && !point->app))
			continue;
		if (!best || point->epoch >= best->epoch)
			best = point;
	}
	if (best)
		return best;
	if (!points->count)
		return none(wanted, "there is no recovery point");
	return none(wanted, app && wanted->whole ? "no point is application-consistent and has every disk" :
			    app			 ? "no point is application-consistent" :
			    wanted->whole	 ? "no point has every disk" :
						   "no point is consistent");
}

static const struct point *before_rollback(const struct wanted *wanted)
{
	for (size_t i = 0; i < wanted->points->count; i++)
		if (wanted->points->points[i].before_rollback)
			return checked(wanted, &wanted->points->points[i]);
	return none(wanted, "there is no rollback to take back: none was done, or what was before it is gone");
}

static bool named_so(const struct point *point, const char *name)
{
	return *name && !strcmp(text(point->meta, "name"), name);
}

static const struct point *by_name(const struct wanted *wanted)
{
	const struct points *points = wanted->points;
	const struct point *found = NULL;
	char list[400] = "", clock[WALL_TIME_BYTES];
	uint64_t origins[NAMED_MAX] = { 0 };
	size_t used = 0;
	unsigned count = 0;

	for (size_t i = 0; i < points->count; i++) {
		const struct point *point = &points->points[i];
		bool copy = false;

		if (!named_so(point, wanted->selector))
			continue;
		for (unsigned j = 0; j < count && j < NAMED_MAX; j++)
			copy |= origins[j] == points_origin(points, point);
		if (copy)
			continue;
		if (count < NAMED_MAX) {
			origins[count] = points_origin(points, point);
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s#%" PRIu64 " (%s)",
						 used ? ", " : "", point->id,
						 wall_time_text(point->time_ms, clock));
		}
		if (!count++)
			found = point;
	}
	if (count == 1)
		return checked(wanted, found);
	fault_set(wanted->fault, 0, "ambiguous", true, "name it by its number",
		  "point %.100s: %u points have that name: %s%s", wanted->selector, count, list,
		  count > NAMED_MAX ? ", ..." : "");
	return NULL;
}

static const struct point *by_id(const struct wanted *wanted, uint64_t id)
{
	const struct point *found = points_find(wanted->points, id);
	char near[400];

	if (found)
		return checked(wanted, found);
	if (!wanted->points->count)
		return none(wanted, "there is no recovery point");
	fault_set(wanted->fault, 0, "no-point", true, LIST_REMEDY,
		  "point #%" PRIu64 ": no recovery point has that number; %s", id,
		  near_text(wanted->points, id, false, near, sizeof(near)));
	return NULL;
}

static const struct point *by_time(const struct wanted *wanted, uint64_t ms, bool day, uint64_t now_ms)
{
	const struct points *points = wanted->points;
	const struct point *best = NULL, *next = NULL;
	char clock[WALL_TIME_BYTES], what[160];
	bool lacking = false; /* there is one, but not with every disk */

	if (ms > now_ms + AHEAD_MS) {
		fault_set(wanted->fault, 0, "no-point", true,
			  day ? "latest is the newest point" : "name the day, too: \"2026-11-30 03:12\"",
			  "point %.100s: %s has not come yet", wanted->selector, wall_time_text(ms, clock));
		return NULL;
	}
	for (size_t i = 0; i < points->count; i++) {
		const struct point *point = &points->points[i];

		if (!fits(wanted, point)) {
			lacking |= point->consistent && point->time_ms <= ms;
			continue;
		}
		if (point->time_ms > ms) {
			if (!next || point->time_ms < next->time_ms)
				next = point;
		} else if (!best || point->time_ms > best->time_ms ||
			   (point->time_ms == best->time_ms && !point->copy_of)) {
			best = point;
		}
	}
	if (best)
		return best;
	if (!next)
		return none(wanted, wanted->whole && points->count ? "no point has every disk" :
								     "there is no recovery point");
	fault_set(wanted->fault, 0, "no-point", true, LIST_REMEDY,
		  "point %.100s: no point%s goes back to %s; the oldest is %s", wanted->selector,
		  lacking ? " with every disk" : "", wall_time_text(ms, clock),
		  point_text(next, what, sizeof(what)));
	return NULL;
}

/* "#57" or "57" */
static bool parse_id(const char *selector, uint64_t *id)
{
	const char *digits = selector + (*selector == '#');
	char *end;

	if (*digits < '0' || *digits > '9')
		return false;
	errno = 0;
	*id = strtoull(digits, &end, 10);
	return !errno && !*end;
}

const struct point *points_select(const struct points *points, const char *selector, bool whole, uint64_t now_ms,
				  struct fault *fault)
{
	struct wanted wanted = { points, selector, whole, fault };
	uint64_t id, ms;
	bool day;

	if (!strcmp(selector, "latest"))
		return latest(&wanted, false);
	if (!strcmp(selector, "latest-app"))
		return latest(&wanted, true);
	if (!strcmp(selector, "undo"))
		return before_rollback(&wanted);
	if (*selector == '#' && parse_id(selector, &id))
		return by_id(&wanted, id); /* without exception, for programs */
	if (points_named(points, selector))
		return by_name(&wanted);
	if (parse_id(selector, &id))
		return by_id(&wanted, id);
	if (!wall_time_parse(selector, now_ms, &ms, &day))
		return by_time(&wanted, ms, day, now_ms);
	return none(&wanted, "no point has that name, and it is neither a number nor a time nor latest, latest-app or undo");
}

int points_parse_time(const char *selector, uint64_t now_ms, uint64_t *ms)
{
	return wall_time_parse(selector, now_ms, ms, NULL);
}

const struct point *points_find(const struct points *points, uint64_t id)
{
	size_t low = 0, high = points->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (points->points[middle].id == id)
			return &points->points[middle];
		if (points->points[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

uint64_t points_origin(const struct points *points, const struct point *point)
{
	while (point->copy_of && point->copy_of < point->id) {
		const struct point *of = points_find(points, point->copy_of);

		if (!of)
			return point->copy_of;
		point = of;
	}
	return point->id;
}

bool points_named(const struct points *points, const char *name)
{
	for (size_t i = 0; i < points->count; i++)
		if (named_so(&points->points[i], name))
			return true;
	return false;
}
