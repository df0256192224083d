/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of what the control socket answers about recovery points, with an undo log and machines that do as told. */
/* LINK: userspace/master-target/points_control.c userspace/master-target/points.c userspace/master-target/fault.c userspace/master-target/state.c userspace/master-target/tags.c */
#include "control.h"
#include "userspace/master-target/machine.h"
#include "userspace/master-target/points.h"
#include "userspace/master-target/points_control.h"
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- what the rest of the master target would do ---------------------------- */

static struct {
	int mark_error, writes;
	uint64_t used, rolled_to;
	const char *rollback_state;
	bool dropped, refuse;
} world;

const json_t *undo_log_marked(const struct undo_log *log, uint64_t id, const char *key)
{
	char name[24];

	snprintf(name, sizeof(name), "%" PRIu64, id);
	return json_object_get(json_object_get(log->marks, name), key);
}

int undo_log_mark_all(struct undo_log *log, const uint64_t *ids, size_t count, const char *key, json_t *value)
{
	world.writes++;
	if (world.mark_error)
		return world.mark_error;
	for (size_t i = 0; i < count; i++) {
		char name[24];
		json_t *marks;

		snprintf(name, sizeof(name), "%" PRIu64, ids[i]);
		marks = json_object_get(log->marks, name);
		if (!marks)
			json_object_set_new(log->marks, name, marks = json_object());
		if (value)
			json_object_set(marks, key, value);
		else
			json_object_del(marks, key);
	}
	return 0;
}

int undo_log_mark(struct undo_log *log, uint64_t id, const char *key, json_t *value)
{
	int r = undo_log_mark_all(log, &id, 1, key, value);

	json_decref(value);
	return r;
}

bool undo_log_state_used(const struct undo_log *log, uint64_t id)
{
	(void)log;
	return id == world.used;
}

struct machine *machine_find(const struct server *server, const char *name)
{
	for (struct machine *m = server->machines; m; m = m->next)
		if (!strcmp(m->state.host, name) || !strcmp(m->state.uuid, name))
			return m;
	return NULL;
}

int machine_rollback(struct machine *machine, uint64_t id, struct fault *fault)
{
	if (world.refuse)
		return fault_set(fault, -1, "busy", false, "stop its agent", "machine %s: cannot be rolled back", machine->name);
	world.rolled_to = id;
	world.rollback_state = "waiting";
	return 0;
}

json_t *machine_rollback_estimate(struct machine *machine, uint64_t id, struct fault *fault)
{
	if (world.refuse) {
		fault_set(fault, 0, "io", false, "repair it", "machine %s: the log is damaged", machine->name);
		return NULL;
	}
	return json_pack("{s:I}", "bytes", (json_int_t)id * 1000);
}

int machine_rollback_stop(struct machine *machine, struct fault *fault)
{
	if (world.refuse)
		return fault_set(fault, -1, "no-rollback", true, "look", "machine %s: no rollback is under way", machine->name);
	world.rollback_state = "undoing";
	return 0;
}

json_t *machine_rollback_json(const struct machine *machine)
{
	(void)machine;
	return json_pack("{s:s}", "state", world.rollback_state ? world.rollback_state : "idle");
}

int machine_drop_points(struct machine *machine, struct fault *fault)
{
	if (world.refuse)
		return fault_set(fault, -1, "busy", false, "end the export", "machine %s: points are in use", machine->name);
	world.dropped = true;
	return 0;
}

/* ---- a server with two machines --------------------------------------------- */

struct rig {
	struct server server;
	struct machine web, mail;
	struct state_disk disks[2];
	json_t *answer;
};

static json_t *meta(uint64_t id, const char *kind, unsigned disks)
{
	json_t *list = json_array();
	char name[32];

	for (unsigned i = 0; i < disks; i++)
		json_array_append_new(list, json_pack("{s:i, s:s, s:s, s:i}", "id", (int)i, "name", i ? "data" : "root",
						      "path", "/dev/then", "size_bytes", 4096));
	snprintf(name, sizeof(name), "p%" PRIu64, id);
	return json_pack("{s:I, s:b, s:s, s:s, s:I, s:o}", "epoch", (json_int_t)id, "consistent",
			 strcmp(kind, "fuzzy") != 0, "kind", kind, "name", name, "time_ms",
			 (json_int_t)(1000000 + id * 1000), "disks", list);
}

static void entries(struct rig *rig, size_t count, const char *const *kinds)
{
	struct undo_chain *chain = &rig->web.log.chain;

	chain->entries = calloc(count, sizeof(*chain->entries));
	chain->count = count;
	for (size_t i = 0; i < count; i++) {
		chain->entries[i].base = 10 + i;
		chain->entries[i].last = 11 + i;
		chain->entries[i].bytes = 100;
		chain->entries[i].meta = meta(10 + i, kinds ? kinds[i] : "crash", i ? 2 : 1);
	}
	rig->web.log.committed = rig->web.state.number = 10 + count;
	rig->web.state.now = meta(10 + count, "crash", 2);
}

static void *rig_new(void)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	memset(&world, 0, sizeof(world));
	rig->server.machines = &rig->web;
	rig->web.next = &rig->mail;
	rig->web.server = rig->mail.server = &rig->server;
	snprintf(rig->web.name, sizeof(rig->web.name), "web");
	snprintf(rig->web.state.host, sizeof(rig->web.state.host), "web");
	snprintf(rig->web.state.uuid, sizeof(rig->web.state.uuid), "u-1");
	snprintf(rig->mail.name, sizeof(rig->mail.name), "mail");
	snprintf(rig->mail.state.uuid, sizeof(rig->mail.state.uuid), "u-2");
	rig->mail.state.tags.syncing = true;
	rig->web.logged = true;
	rig->web.log.marks = json_object();
	rig->web.log.bytes = 400;
	snprintf(rig->web.log.path, sizeof(rig->web.log.path), "/retention/u-1");
	rig->web.state.disks = rig->disks;
	rig->web.state.disk_count = 2;
	for (unsigned i = 0; i < 2; i++) {
		rig->disks[i].id = i;
		rig->disks[i].source_bytes = 4096;
		snprintf(rig->disks[i].name, sizeof(rig->disks[i].name), i ? "data" : "root");
		snprintf(rig->disks[i].path, sizeof(rig->disks[i].path), "/dev/now%u", i);
	}
	return rig;
}

/* web: #10 crash, root only; #11 app; #12 fuzzy; #13 crash; #14 the present. mail: syncing, no log. */
static int setup(void **state)
{
	static const char *const kinds[] = { "crash", "app", "fuzzy", "crash" };
	struct rig *rig = rig_new();

	entries(rig, ARRAY_LENGTH(kinds), kinds);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	for (size_t i = 0; i < rig->web.log.chain.count; i++)
		json_decref(rig->web.log.chain.entries[i].meta);
	free(rig->web.log.chain.entries);
	json_decref(rig->web.state.now);
	json_decref(rig->web.log.marks);
	json_decref(rig->answer);
	free(rig);
	return 0;
}

static json_t *ask(struct rig *rig, const char *request)
{
	CLEANUP_JSON json_t *json = json_loads(request, 0, NULL);

	assert_non_null(json);
	json_decref(rig->answer);
	rig->answer = points_handle(json_string_value(json_object_get(json, "command")), json, &rig->server);
	return rig->answer;
}

static json_t *good(struct rig *rig, const char *request)
{
	json_t *answer = ask(rig, request);

	if (!json_is_true(json_object_get(answer, "ok")))
		fail_msg("%s: %s", request, json_dumps(answer, 0));
	return answer;
}

static void bad(struct rig *rig, const char *request, const char *message, const char *remedy)
{
	const json_t *answer = ask(rig, request), *error = json_object_get(answer, "error");
	const char *said = json_string_value(json_object_get(error, "message"));
	const char *todo = json_string_value(json_object_get(error, "remedy"));

	if (!json_is_false(json_object_get(answer, "ok")) || !said || !strstr(said, message) || !todo ||
	    !strstr(todo, remedy))
		fail_msg("%s: wanted \"%s\" (%s): %s", request, message, remedy, json_dumps(answer, 0));
}

static json_int_t number(const json_t *json, const char *key)
{
	return json_integer_value(json_object_get(json, key));
}

static const char *text(const json_t *json, const char *key)
{
	return json_string_value(json_object_get(json, key));
}

static json_int_t id_of(const json_t *answer)
{
	return number(json_object_get(answer, "point"), "id");
}

static bool is_marked(const struct rig *rig, uint64_t id, const char *key)
{
	return json_is_true(undo_log_marked(&rig->web.log, id, key));
}

static void others_commands_are_not_ours(void **state)
{
	assert_null(ask(*state, "{\"command\":\"status\"}"));
}

static void all_machines_with_their_points(void **state)
{
	struct rig *rig = *state;
	const json_t *machines = json_object_get(good(rig, "{\"command\":\"points\"}"), "machines");
	const json_t *web = json_array_get(machines, 0), *mail = json_array_get(machines, 1);

	assert_int_equal(json_array_size(machines), 2);
	assert_string_equal(text(web, "machine"), "u-1");
	assert_string_equal(text(web, "host"), "web");
	assert_string_equal(text(web, "log"), "/retention/u-1");
	assert_int_equal(number(web, "present"), 14);
	assert_int_equal(number(web, "retention_bytes"), 400);
	assert_int_equal(json_array_size(json_object_get(web, "points")), 4);
	assert_false(json_is_true(json_object_get(web, "more")));
	assert_false(json_is_true(json_object_get(web, "syncing")));
	assert_string_equal(text(mail, "host"), "u-2"); /* it has not said its name yet */
	assert_true(json_is_null(json_object_get(mail, "log")));
	assert_true(json_is_true(json_object_get(mail, "syncing")));
	assert_int_equal(json_array_size(json_object_get(mail, "points")), 0);
	assert_int_equal(json_array_size(json_object_get(good(rig, "{\"command\":\"points\",\"machine\":\"u-2\"}"),
							 "machines")), 1);
	bad(rig, "{\"command\":\"points\",\"machine\":\"db\"}", "machine db: not known", "target list");
}

/* More points than an answer of the control socket can have. */
static void pages(void **state)
{
	struct rig *rig = rig_new();
	unsigned found = 0, answers = 0;
	json_int_t last = 0;
	bool more = true;

	entries(rig, 10000, NULL);
	while (more) {
		CLEANUP_FREE char *line = NULL;
		const json_t *machine, *points;
		char request[128];

		snprintf(request, sizeof(request), "{\"command\":\"points\",\"machine\":\"web\",\"after\":%lld}", last);
		machine = json_array_get(json_object_get(good(rig, request), "machines"), 0);
		points = json_object_get(machine, "points");
		more = json_is_true(json_object_get(machine, "more"));
		line = json_dumps(rig->answer, 0);
		assert_true(strlen(line) < 900 * KIB);
		assert_true(json_array_size(points) > 0);
		assert_true(number(json_array_get(points, 0), "id") > last);
		last = number(json_array_get(points, json_array_size(points) - 1), "id");
		found += (unsigned)json_array_size(points);
		answers++;
	}
	assert_int_equal(found, 10001);
	assert_true(answers > 2);
	/* One write for any number of them. */
	assert_int_equal(number(good(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"newer_than\":\"#1000\"}"),
				"discarded"), 9009);
	assert_int_equal(world.writes, 1);
	assert_true(is_marked(rig, 1001, "discarded"));
	assert_true(is_marked(rig, 10009, "discarded"));
	assert_int_equal(json_array_size(json_object_get(rig->answer, "discarded_points")), 20);
	*state = rig;
	teardown(state);
	*state = NULL;
}

static void a_point_by_its_name(void **state)
{
	struct rig *rig = *state;
	const json_t *disk;

	assert_int_equal(id_of(good(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"latest-app\"}")), 11);
	assert_string_equal(text(rig->answer, "log"), "/retention/u-1");
	assert_string_equal(text(rig->answer, "host"), "web");
	disk = json_array_get(json_object_get(json_object_get(rig->answer, "point"), "disks"), 1);
	assert_string_equal(text(disk, "path"), "/dev/now1"); /* not where it was then */
	bad(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"p99\"}", "machine web: point p99", "points list");
	bad(rig, "{\"command\":\"point\",\"machine\":\"web\"}", "no point was named", "latest");
	bad(rig, "{\"command\":\"point\",\"point\":\"latest\"}", "no machine was named", "target list");
	bad(rig, "{\"command\":\"point\",\"machine\":\"u-2\",\"point\":\"latest\"}", "there is none yet", "reprotect status");
}

static void a_point_of_one_disk_or_of_all(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(id_of(good(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"#10\"}")), 10);
	bad(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"#10\",\"whole\":true}", "disk data is not in it",
	    "every disk");
	assert_int_equal(id_of(good(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"#10\",\"disk\":\"root\"}")), 10);
	bad(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"#10\",\"disk\":\"data\"}", "#10 \"p10\"",
	    "another point");
	bad(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"#99\",\"disk\":\"data\"}", "no recovery point has that",
	    "points list");
	bad(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"latest\",\"disk\":\"swap\"}",
	    "no recovery point has a disk swap", "target list");
}

static void a_time_is_that_of_the_person(void **state)
{
	struct rig *rig = *state;

	/* 00:16 somewhere; whatever it is here. A point of that name goes before it. */
	assert_int_equal(id_of(good(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"00:16\",\"point_ms\":1011500}")), 11);
	assert_int_equal(id_of(good(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"p13\",\"point_ms\":1011500}")), 13);
}

static void pins(void **state)
{
	struct rig *rig = *state;

	good(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#11\",\"pinned\":true}");
	assert_true(is_marked(rig, 11, "pinned"));
	assert_true(json_is_true(json_object_get(json_object_get(rig->answer, "point"), "pinned")));
	good(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#11\",\"pinned\":true}");
	assert_int_equal(world.writes, 1);
	good(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#11\",\"pinned\":false}");
	assert_false(is_marked(rig, 11, "pinned"));
	good(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"latest\",\"pinned\":true}");
	assert_true(is_marked(rig, 14, "pinned"));
	bad(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#11\"}", "neither true nor false", "pin");
	bad(rig, "{\"command\":\"point-pin\",\"machine\":\"u-2\",\"point\":\"#11\",\"pinned\":true}", "no undo log is kept",
	    "master-target.conf");
	world.mark_error = -ENOSPC;
	bad(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#11\",\"pinned\":true}", "No space left", "free space");
}

static void discards_what_nobody_holds(void **state)
{
	struct rig *rig = *state;

	good(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"point\":\"#13\",\"dry\":true}");
	assert_false(is_marked(rig, 13, "discarded"));
	good(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"point\":\"#13\"}");
	assert_int_equal(number(rig->answer, "bytes"), 100);
	assert_true(is_marked(rig, 13, "discarded"));
	bad(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"point\":\"#13\"}", "no recovery point has that number",
	    "points list");
	bad(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"point\":\"latest\"}", "the disks are in this state",
	    "roll back");
	good(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#11\",\"pinned\":true}");
	bad(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"point\":\"#11\"}", "it is pinned", "unpin");
	world.used = 10;
	bad(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"point\":\"#10\"}", "it is in use", "exports");
	assert_false(is_marked(rig, 10, "discarded"));
	bad(rig, "{\"command\":\"point-discard\",\"machine\":\"web\"}", "no point was named", "latest");
}

static void discards_newer_ones_but_held_ones(void **state)
{
	struct rig *rig = *state;
	const json_t *kept;

	good(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#11\",\"pinned\":true}");
	good(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"newer_than\":\"#10\"}");
	assert_int_equal(number(rig->answer, "discarded"), 1);
	assert_int_equal(number(rig->answer, "kept"), 1);
	kept = json_array_get(json_object_get(rig->answer, "kept_points"), 0);
	assert_int_equal(number(kept, "id"), 11);
	assert_string_equal(text(kept, "why"), "it is pinned");
	assert_true(is_marked(rig, 13, "discarded"));
	assert_false(is_marked(rig, 10, "discarded"));
	assert_false(is_marked(rig, 11, "discarded"));
	assert_false(is_marked(rig, 14, "discarded"));
	good(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"newer_than\":\"latest\"}");
	assert_int_equal(number(rig->answer, "discarded"), 0);
}

static void a_mark_that_cannot_be_written_is_none(void **state)
{
	struct rig *rig = *state;

	good(rig, "{\"command\":\"point-pin\",\"machine\":\"web\",\"point\":\"#10\",\"pinned\":true}");
	world.mark_error = -EIO;
	bad(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"newer_than\":\"#10\"}", "cannot write the marks", "repair");
	assert_false(is_marked(rig, 11, "discarded"));
	assert_false(is_marked(rig, 13, "discarded"));
	assert_true(is_marked(rig, 10, "pinned"));
}

static void verdicts(void **state)
{
	struct rig *rig = *state;

	good(rig, "{\"command\":\"point-verdict\",\"machine\":\"web\",\"id\":11,\"verdict\":{\"result\":\"warning\",\"time_ms\":5,"
		  "\"checks\":[]}}");
	assert_string_equal(text(undo_log_marked(&rig->web.log, 11, "verified"), "result"), "warning");
	good(rig, "{\"command\":\"point\",\"machine\":\"web\",\"point\":\"#11\"}");
	assert_int_equal(number(json_object_get(json_object_get(rig->answer, "point"), "verified"), "time_ms"), 5);
	bad(rig, "{\"command\":\"point-verdict\",\"machine\":\"web\",\"id\":12,\"verdict\":{\"result\":\"good\",\"time_ms\":5}}",
	    "point #12: is not there", "points list");
	bad(rig, "{\"command\":\"point-verdict\",\"machine\":\"web\",\"id\":11,\"verdict\":{\"result\":\"fine\",\"time_ms\":5}}",
	    "no verdict", "good");
	bad(rig, "{\"command\":\"point-verdict\",\"machine\":\"web\",\"id\":11,\"verdict\":{\"result\":\"good\"}}", "no verdict",
	    "time_ms");
	bad(rig, "{\"command\":\"point-verdict\",\"machine\":\"web\",\"id\":11}", "no verdict", "good");
}

static void rollback(void **state)
{
	struct rig *rig = *state;

	good(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"latest-app\",\"dry\":true}");
	assert_int_equal(number(json_object_get(rig->answer, "estimate"), "bytes"), 11000);
	assert_int_equal(number(json_object_get(rig->answer, "from"), "id"), 14);
	assert_int_equal(number(rig->answer, "newer"), 2);
	assert_int_equal(world.rolled_to, 0);
	good(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"latest-app\"}");
	assert_int_equal(world.rolled_to, 11);
	assert_string_equal(text(json_object_get(rig->answer, "rollback"), "state"), "waiting");
	assert_int_equal(id_of(rig->answer), 11);
	good(rig, "{\"command\":\"rollback-status\",\"machine\":\"web\"}");
	assert_string_equal(text(json_object_get(rig->answer, "rollback"), "state"), "waiting");
	assert_string_equal(text(rig->answer, "status"), "initial-sync");
	assert_int_equal(number(rig->answer, "present"), 14);
	assert_true(json_is_null(json_object_get(rig->answer, "copy_of")));
	assert_true(json_is_null(json_object_get(rig->answer, "failing")));
	rig->web.failing = true;
	snprintf(rig->web.last.message, sizeof(rig->web.last.message), "no room");
	good(rig, "{\"command\":\"rollback-status\",\"machine\":\"web\"}");
	assert_string_equal(text(json_object_get(rig->answer, "failing"), "message"), "no room");
	/* Nothing is taken away under its feet. */
	bad(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#13\"}", "its disks are being restored", "--status");
	bad(rig, "{\"command\":\"point-discard\",\"machine\":\"web\",\"point\":\"#11\"}", "its disks are being restored", "--status");
	bad(rig, "{\"command\":\"points-drop\",\"machine\":\"web\"}", "its disks are being restored", "--status");
	good(rig, "{\"command\":\"rollback-stop\",\"machine\":\"web\"}");
	assert_string_equal(text(json_object_get(rig->answer, "rollback"), "state"), "undoing");
	world.rollback_state = "failed";
	good(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#13\"}");
	world.refuse = true;
	bad(rig, "{\"command\":\"rollback-stop\",\"machine\":\"web\"}", "no rollback is under way", "look");
}

static void a_rollback_wants_every_disk(void **state)
{
	struct rig *rig = *state;

	bad(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#10\"}", "disk data is not in it", "every disk");
	assert_int_equal(world.rolled_to, 0);
	bad(rig, "{\"command\":\"rollback\",\"machine\":\"u-2\",\"point\":\"latest\"}", "no undo log is kept", "master-target.conf");
	world.refuse = true;
	bad(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#13\"}", "machine web: cannot be rolled back", "stop its agent");
	bad(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#13\",\"dry\":true}", "the log is damaged", "repair");
}

static void a_rollback_to_what_is_there(void **state)
{
	struct rig *rig = *state;

	bad(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"latest\"}", "in that state already", "another point");
	json_object_set_new(rig->web.state.now, "rolled_back", json_integer(11));
	bad(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"p11\"}", "in that state already", "another point");
	rig->web.state.between = true; /* a part of the next epoch is on them */
	good(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#14\"}");
	assert_int_equal(world.rolled_to, 14);
}

static void where_it_comes_from_need_not_be_a_point(void **state)
{
	struct rig *rig = *state;
	const json_t *from;

	json_decref(rig->web.state.now);
	rig->web.state.now = NULL;
	rig->web.state.last_applied = 77;
	from = json_object_get(good(rig, "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"latest\",\"dry\":true}"), "from");
	assert_int_equal(number(from, "id"), 14);
	assert_int_equal(number(from, "epoch"), 77);
	assert_string_equal(text(from, "kind"), "none");
	assert_int_equal(id_of(rig->answer), 13);
}

static void dropping(void **state)
{
	struct rig *rig = *state;

	world.refuse = true;
	bad(rig, "{\"command\":\"points-drop\",\"machine\":\"web\"}", "points are in use", "end the export");
	world.refuse = false;
	good(rig, "{\"command\":\"points-drop\",\"machine\":\"u-2\"}"); /* also when the volume is lost */
	assert_true(world.dropped);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(others_commands_are_not_ours),
		TEST(all_machines_with_their_points),
		cmocka_unit_test(pages),
		TEST(a_point_by_its_name),
		TEST(a_point_of_one_disk_or_of_all),
		TEST(a_time_is_that_of_the_person),
		TEST(pins),
		TEST(discards_what_nobody_holds),
		TEST(discards_newer_ones_but_held_ones),
		TEST(a_mark_that_cannot_be_written_is_none),
		TEST(verdicts),
		TEST(rollback),
		TEST(a_rollback_wants_every_disk),
		TEST(a_rollback_to_what_is_there),
		TEST(where_it_comes_from_need_not_be_a_point),
		TEST(dropping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
