// SPDX-License-Identifier: GPL-2.0-or-later
/* points_control: see points_control.h. Finds the machine and the point; what is done to them is done elsewhere. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "control.h"
#include "log.h"
#include "machine.h"
#include "points.h"
#include "points_control.h"
#include "util.h"

#define POINTS_BYTES (700u * KIB) /* of points in one answer: control.c sends no more than 1 MiB */
#define VERDICT_BYTES (16u * KIB)
#define SHOWN_MAX 20u /* points that an answer names one by one */

static void cleanup_points(struct points *points)
{
	points_clear(points);
}
#define CLEANUP_POINTS __attribute__((cleanup(cleanup_points)))

/*
 * struct call - a request that names a machine, and what it is about
 * @ids: room for those of all points, where it is wanted
 * @error: the answer when something is wrong with it
 */
struct call {
	struct server *server;
	const json_t *request;
	struct machine *machine;
	struct points points;
	uint64_t *ids;
	uint64_t now_ms;
	json_t *error;
};

static struct undo_log *log_of(struct machine *machine)
{
	return machine->logged ? &machine->log : NULL;
}

static json_t *out_of_memory(void)
{
	return control_error("free memory on the master target", "out of memory");
}

static const char *text(const json_t *request, const char *key)
{
	return json_string_value(json_object_get(request, key));
}

static json_t *failed(const struct fault *fault)
{
	return control_error(fault->remedy, "%s", fault->message);
}

/* For messages of points.c, which know no machine. */
static json_t *refused(const struct machine *machine, const struct fault *fault)
{
	return control_error(fault->remedy, "machine %s: %s", machine->name, fault->message);
}

static json_t *identify(json_t *answer, const struct machine *machine)
{
	const struct state *state = &machine->state;

	if (!answer)
		return out_of_memory();
	json_object_set_new(answer, "machine", json_string(state->uuid));
	json_object_set_new(answer, "host", json_string(state->host[0] ? state->host : state->uuid));
	return answer;
}

static json_t *log_json(struct machine *machine)
{
	return log_of(machine) ? json_string(log_of(machine)->path) : json_null();
}

/* ---- finding ---------------------------------------------------------------- */

static bool find_machine(struct call *call)
{
	const char *name = text(call->request, "machine");

	call->machine = name ? machine_find(call->server, name) : NULL;
	if (!name)
		call->error = control_error("name it by host or uuid, see: reprotect target list",
					    "no machine was named");
	else if (!call->machine)
		call->error = control_error("see reprotect target list for the machines and their uuids",
					    "machine %s: not known here, or several have that name", name);
	return call->machine;
}

/* The machine, and all its points. */
static bool find_points(struct call *call)
{
	if (!find_machine(call))
		return false;
	if (!points_collect(&call->points, log_of(call->machine), &call->machine->state))
		return true;
	call->error = out_of_memory();
	return false;
}

static bool has_disk(const struct point *point, const char *name)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(point->meta, "disks"), i, disk)
		if (text(disk, "name") && !strcmp(text(disk, "name"), name))
			return true;
	return false;
}

/* Leave only the points that have the disk that the request names. */
static bool keep_those_with_disk(struct call *call)
{
	const char *disk = text(call->request, "disk");
	struct points *points = &call->points;
	size_t kept = 0, before = points->count;

	if (!disk)
		return true;
	for (size_t i = 0; i < points->count; i++)
		if (has_disk(&points->points[i], disk))
			points->points[kept++] = points->points[i];
	points->count = kept;
	if (kept || !before)
		return true;
	call->error = control_error("see the names of its disks: reprotect target list",
				    "machine %s: no recovery point has a disk %s", call->machine->name, disk);
	return false;
}

/* The point that the request names with @key; NULL: the error is set. */
static const struct point *find_point(struct call *call, const char *key, bool whole)
{
	const char *selector = text(call->request, key);
	char ms_key[32], since[48];
	const struct point *point;
	struct fault fault = { 0 };
	json_int_t ms;

	if (!selector) {
		call->error = control_error("latest, latest-app, undo, #<number>, a name or a time",
					    "machine %s: no point was named", call->machine->name);
		return NULL;
	}
	snprintf(ms_key, sizeof(ms_key), "%s_ms", key);
	ms = json_integer_value(json_object_get(call->request, ms_key));
	if (ms > 0 && !points_named(&call->points, selector)) {
		snprintf(since, sizeof(since), "@%lld.%03u", ms / 1000, (unsigned)(ms % 1000));
		selector = since;
	}
	point = points_select(&call->points, selector, whole, call->now_ms, &fault);
	if (!point)
		call->error = refused(call->machine, &fault);
	return point;
}

/* What needs a log that can be changed. */
static bool need_log(struct call *call)
{
	if (log_of(call->machine))
		return true;
	call->error = control_error("set retention in master-target.conf to a volume that is there, and restart the "
				    "master target",
				    "machine %s: no undo log is kept", call->machine->name);
	return false;
}

/* A rollback, or (@undo) the undoing of an epoch that was not completed. */
static bool restore_runs(const struct machine *machine, bool undo)
{
	CLEANUP_JSON json_t *rollback = machine_rollback_json(machine);
	const char *state = text(rollback, "state");

	return state && (!strcmp(state, "waiting") || (undo && !strcmp(state, "undoing")) || !strcmp(state, "restoring"));
}

static bool need_rest(struct call *call, bool undo)
{
	if (!restore_runs(call->machine, undo))
		return true;
	call->error = control_error("wait for its end, see: reprotect points rollback MACHINE --status",
				    "machine %s: its disks are being restored", call->machine->name);
	return false;
}

static json_t *mark_failed(const struct call *call, int error)
{
	return control_error("free space or repair the file system of the state directory",
			     "machine %s: cannot write the marks in %s: %s", call->machine->name,
			     log_of(call->machine)->marks_path, strerror(-error));
}

/* ---- showing ---------------------------------------------------------------- */

/* @room: bytes that the answer may still grow by */
static json_t *machine_points(struct machine *machine, uint64_t after, uint64_t now_ms, size_t *room)
{
	const struct undo_log *log = log_of(machine);
	CLEANUP_POINTS struct points points = { 0 };
	json_t *list = json_array(), *json;
	bool more = false;

	if (points_collect(&points, log, &machine->state)) {
		json_decref(list);
		return NULL;
	}
	for (size_t i = 0; i < points.count && !more; i++) {
		size_t bytes;

		if (points.points[i].id <= after)
			continue;
		json = point_json(&points.points[i], now_ms);
		bytes = json ? json_dumpb(json, NULL, 0, 0) + 2 : 0;
		more = bytes > *room;
		if (more) {
			json_decref(json);
			break;
		}
		*room -= bytes;
		json_array_append_new(list, json);
	}
	json = json_pack("{s:s, s:o, s:I, s:b, s:I, s:o, s:o, s:b}", "status",
			 state_status_name(machine->state.status), "log", log_json(machine), "present",
			 (json_int_t)machine->state.number, "syncing", machine->state.tags.syncing,
			 "retention_bytes", (json_int_t)(log ? log->bytes : 0), "rollback",
			 machine_rollback_json(machine), "points", list, "more", more);
	return json ? identify(json, machine) : NULL;
}

static json_t *do_points(struct call *call)
{
	uint64_t after = (uint64_t)json_integer_value(json_object_get(call->request, "after"));
	bool one = json_object_get(call->request, "machine");
	json_t *machines = json_array();
	size_t room = POINTS_BYTES;

	if (one && !find_machine(call)) {
		json_decref(machines);
		return call->error;
	}
	for (struct machine *m = call->server->machines; m; m = m->next) {
		if (one && m != call->machine)
			continue;
		if (json_array_append_new(machines, machine_points(m, one ? after : 0, call->now_ms, &room))) {
			json_decref(machines);
			return NULL;
		}
	}
	return json_pack("{s:b, s:o}", "ok", 1, "machines", machines);
}

/* A point whose disks say where their targets are now: a device may have got another name since. */
static json_t *point_with_targets(const struct call *call, const struct point *point)
{
	json_t *json = point_json(point, call->now_ms), *disks = json_deep_copy(json_object_get(json, "disks")), *disk;
	size_t i;

	json_object_set_new(json, "disks", disks);
	json_array_foreach(disks, i, disk)
	{
		const char *name = text(disk, "name");
		const struct state_disk *known = name ? state_disk(&call->machine->state, name) : NULL;

		if (known)
			json_object_set_new(disk, "path", json_string(known->path));
	}
	return json;
}

/* No point with the disk is meant: perhaps there is one without it. */
static json_t *without_disk(struct call *call)
{
	json_t *error = call->error;
	const struct point *point;
	char what[160];

	points_clear(&call->points);
	point = find_points(call) ? find_point(call, "point", false) : NULL;
	if (!point) {
		json_decref(call->error == error ? NULL : call->error);
		return error;
	}
	json_decref(error);
	return control_error("choose another point, or another disk of it", "machine %s: point %s: disk %s is not in it",
			     call->machine->name, point_text(point, what, sizeof(what)), text(call->request, "disk"));
}

static json_t *do_point(struct call *call)
{
	bool whole = json_is_true(json_object_get(call->request, "whole"));
	const struct point *point;

	if (!find_points(call) || !keep_those_with_disk(call))
		return call->error;
	point = find_point(call, "point", whole);
	if (!point)
		return text(call->request, "disk") ? without_disk(call) : call->error;
	return identify(json_pack("{s:b, s:o, s:o}", "ok", 1, "log", log_json(call->machine), "point",
				  point_with_targets(call, point)),
			call->machine);
}

/* ---- marking ---------------------------------------------------------------- */

static json_t *do_pin(struct call *call)
{
	const json_t *pinned = json_object_get(call->request, "pinned");
	const struct point *point;
	struct point after;
	int r;

	if (!find_points(call) || !need_log(call))
		return call->error;
	if (!json_is_boolean(pinned))
		return control_error("reprotect points pin|unpin MACHINE POINT", "pinned: neither true nor false");
	point = find_point(call, "point", false);
	if (!point)
		return call->error;
	if (point->pinned != json_is_true(pinned)) {
		r = undo_log_mark(log_of(call->machine), point->id, "pinned",
				  json_is_true(pinned) ? json_true() : NULL);
		if (r)
			return mark_failed(call, r);
		log_info("machine %s: recovery point %" PRIu64 ": %s", call->machine->name, point->id,
			 json_is_true(pinned) ? "pinned" : "no longer pinned");
	}
	after = *point;
	after.pinned = json_is_true(pinned);
	return identify(json_pack("{s:b, s:o}", "ok", 1, "point", point_json(&after, call->now_ms)), call->machine);
}

/* Why @point may not be discarded, or NULL. */
static const char *held(const struct call *call, const struct point *point)
{
	if (point->present)
		return "the disks are in this state";
	if (point->pinned)
		return "it is pinned";
	return undo_log_state_used(log_of(call->machine), point->id) ? "it is in use" : NULL;
}

static const char *held_remedy(const struct point *point)
{
	if (point->present)
		return "roll back to another point first";
	return point->pinned ? "reprotect points unpin it first" : "end its exports first: reprotect points exports";
}

/*
 * struct sorted - points to discard, and those that stay
 * @ids: of those that go; @count of them; not owned
 * @gone, @kept: the first SHOWN_MAX of each, for people
 */
struct sorted {
	uint64_t *ids;
	size_t count, kept_count;
	uint64_t bytes;
	json_t *gone, *kept;
};

static void sorted_clear(struct sorted *sorted)
{
	json_decref(sorted->gone);
	json_decref(sorted->kept);
}
#define CLEANUP_SORTED __attribute__((cleanup(sorted_clear)))

static void sort(struct sorted *sorted, const struct point *point, const char *why)
{
	json_t *list = why ? sorted->kept : sorted->gone;
	char name[160];

	if (json_array_size(list) < SHOWN_MAX)
		json_array_append_new(list, json_pack("{s:I, s:s, s:s?}", "id", (json_int_t)point->id, "text",
						      point_text(point, name, sizeof(name)), "why", why));
	if (why) {
		sorted->kept_count++;
		return;
	}
	sorted->ids[sorted->count++] = point->id;
	sorted->bytes += point->bytes;
}

static void sort_newer(const struct call *call, const struct point *than, struct sorted *sorted)
{
	for (size_t i = 0; i < call->points.count; i++) {
		const struct point *point = &call->points.points[i];

		if (point->id > than->id && !point->present)
			sort(sorted, point, held(call, point));
	}
}

static int discard(struct undo_log *log, const struct sorted *sorted)
{
	CLEANUP_JSON json_t *yes = json_true();

	return sorted->count ? undo_log_mark_all(log, sorted->ids, sorted->count, "discarded", yes) : 0;
}

static json_t *do_discard(struct call *call)
{
	bool newer = json_object_get(call->request, "newer_than");
	bool dry = json_is_true(json_object_get(call->request, "dry"));
	CLEANUP_SORTED struct sorted sorted = { .gone = json_array(), .kept = json_array() };
	const struct point *point;
	char what[160];
	int r;

	if (!find_points(call) || !need_log(call) || !need_rest(call, false)) /* when the volume is full, undoing may go on for ever */
		return call->error;
	point = find_point(call, newer ? "newer_than" : "point", false);
	if (!point)
		return call->error;
	if (!newer && held(call, point))
		return control_error(held_remedy(point), "machine %s: point %s: cannot be discarded: %s",
				     call->machine->name, point_text(point, what, sizeof(what)), held(call, point));
	sorted.ids = call->ids = calloc(call->points.count, sizeof(*sorted.ids));
	if (!sorted.ids)
		return NULL;
	if (newer)
		sort_newer(call, point, &sorted);
	else
		sort(&sorted, point, NULL);
	r = dry ? 0 : discard(log_of(call->machine), &sorted);
	if (r)
		return mark_failed(call, r);
	if (!dry && sorted.count)
		log_notice("machine %s: %zu recovery points discarded", call->machine->name, sorted.count);
	return identify(json_pack("{s:b, s:I, s:I, s:I, s:O, s:O}", "ok", 1, "discarded", (json_int_t)sorted.count,
				  "kept", (json_int_t)sorted.kept_count, "bytes", (json_int_t)sorted.bytes,
				  "discarded_points", sorted.gone, "kept_points", sorted.kept),
			call->machine);
}

static bool verdict_ok(const json_t *verdict)
{
	const char *result = text(verdict, "result");
	const json_t *checks = json_object_get(verdict, "checks");

	return result && (!strcmp(result, "good") || !strcmp(result, "bad") || !strcmp(result, "warning")) &&
	       json_is_integer(json_object_get(verdict, "time_ms")) && (!checks || json_is_array(checks)) &&
	       json_dumpb(verdict, NULL, 0, 0) <= VERDICT_BYTES;
}

static json_t *do_verdict(struct call *call)
{
	const json_t *id = json_object_get(call->request, "id");
	json_t *verdict = json_object_get(call->request, "verdict");
	int r;

	if (!find_points(call) || !need_log(call))
		return call->error;
	if (!verdict_ok(verdict))
		return control_error("{\"result\": \"good\", \"bad\" or \"warning\", \"time_ms\", \"checks\": [...]}, at most "
				     "16 KiB",
				     "machine %s: this is no verdict on a point", call->machine->name);
	if (!json_is_integer(id) || !points_find(&call->points, (uint64_t)json_integer_value(id)))
		return control_error("see: reprotect points list", "machine %s: point #%lld: is not there any more",
				     call->machine->name, json_integer_value(id));
	r = undo_log_mark(log_of(call->machine), (uint64_t)json_integer_value(id), "verified", json_incref(verdict));
	return r ? mark_failed(call, r) : identify(json_pack("{s:b}", "ok", 1), call->machine);
}

/* ---- rolling back ----------------------------------------------------------- */

/* The state that the disks are in, also when that is no point. */
static json_t *from_json(const struct call *call)
{
	const struct state *state = &call->machine->state;

	for (size_t i = 0; i < call->points.count; i++)
		if (call->points.points[i].present)
			return point_json(&call->points.points[i], call->now_ms);
	return json_pack("{s:I, s:s, s:n, s:I, s:I, s:b, s:b}", "id", (json_int_t)state->number, "kind", "none", "name",
			 "epoch", (json_int_t)state->last_applied, "time_ms", (json_int_t)state->applied_ms, "present",
			 1, "consistent", 0);
}

static unsigned newer_count(const struct call *call, const struct point *point)
{
	unsigned count = 0;

	for (size_t i = 0; i < call->points.count; i++)
		count += call->points.points[i].id > point->id;
	return count;
}

/* The present is that point, or was made from it by a rollback, and nothing came on top. */
static bool already_there(const struct call *call, const struct point *point)
{
	const struct points *points = &call->points;
	const struct point *last = points->count ? &points->points[points->count - 1] : NULL;

	return last && last->present && !call->machine->state.between &&
	       points_origin(points, last) == points_origin(points, point);
}

static json_t *do_rollback(struct call *call)
{
	bool dry = json_is_true(json_object_get(call->request, "dry"));
	CLEANUP_JSON json_t *from = NULL, *to = NULL;
	const struct point *point;
	struct fault fault = { 0 };
	json_t *outcome;
	unsigned newer;

	if (!find_points(call) || !need_log(call) || !need_rest(call, true))
		return call->error;
	point = find_point(call, "point", true);
	if (!point)
		return call->error;
	if (already_there(call, point))
		return control_error("choose another point, see: reprotect points list",
				     "machine %s: its disks are in that state already", call->machine->name);
	/* Before it begins: the log that the points borrow from may change then. */
	newer = newer_count(call, point);
	from = from_json(call);
	to = point_json(point, call->now_ms);
	if (dry)
		outcome = machine_rollback_estimate(call->machine, point->id, &fault);
	else
		outcome = machine_rollback(call->machine, point->id, &fault) ? NULL :
									      machine_rollback_json(call->machine);
	if (!outcome)
		return failed(&fault);
	return identify(json_pack("{s:b, s:O, s:O, s:I, s:o}", "ok", 1, "from", from, "point", to, "newer",
				  (json_int_t)newer, dry ? "estimate" : "rollback", outcome),
			call->machine);
}

static json_t *do_rollback_status(struct call *call)
{
	const struct machine *machine;

	if (!find_machine(call))
		return call->error;
	machine = call->machine;
	return identify(json_pack("{s:b, s:s, s:I, s:O?, s:o, s:o}", "ok", 1, "status",
				  state_status_name(machine->state.status), "present",
				  (json_int_t)machine->state.number, "copy_of",
				  json_object_get(machine->state.now, "rolled_back"), "failing",
				  machine->failing ? json_pack("{s:s, s:s}", "message", machine->last.message, "remedy",
							       machine->last.remedy) :
						     json_null(),
				  "rollback", machine_rollback_json(machine)),
			machine);
}

static json_t *do_rollback_stop(struct call *call)
{
	struct fault fault = { 0 };

	if (!find_machine(call))
		return call->error;
	if (machine_rollback_stop(call->machine, &fault))
		return failed(&fault);
	return identify(json_pack("{s:b, s:o}", "ok", 1, "rollback", machine_rollback_json(call->machine)), call->machine);
}

static json_t *do_drop(struct call *call)
{
	struct fault fault = { 0 };

	if (!find_machine(call) || !need_rest(call, true))
		return call->error;
	if (machine_drop_points(call->machine, &fault))
		return failed(&fault);
	return identify(json_pack("{s:b}", "ok", 1), call->machine);
}

json_t *points_handle(const char *command, const json_t *request, struct server *server)
{
	static const struct {
		const char *command;
		json_t *(*handle)(struct call *call);
	} handlers[] = {
		{ "points", do_points },
		{ "point", do_point },
		{ "point-pin", do_pin },
		{ "point-discard", do_discard },
		{ "point-verdict", do_verdict },
		{ "rollback", do_rollback },
		{ "rollback-status", do_rollback_status },
		{ "rollback-stop", do_rollback_stop },
		{ "points-drop", do_drop },
	};
	struct call call = { .server = server, .request = request, .now_ms = util_wall_ms() };
	json_t *answer;

	for (size_t i = 0; i < ARRAY_LENGTH(handlers); i++) {
		if (strcmp(handlers[i].command, command) != 0)
			continue;
		answer = handlers[i].handle(&call);
		points_clear(&call.points);
		free(call.ids);
		return answer ? answer : out_of_memory();
	}
	return NULL;
}
