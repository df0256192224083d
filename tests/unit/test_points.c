/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of recovery points: which states are offered, how they are shown, and how people name them. */
/* LINK: userspace/master-target/points.c userspace/master-target/fault.c */
#include "userspace/master-target/points.h"
#include "util.h"
#include "wall_time.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* 2026-11-30 12:00:00 in Berlin, one hour ahead of UTC. */
#define NOON_MS 1796036400000u
#define MINUTE_MS 60000u

/* The marks of the log, as undo_log.c would answer. */
const json_t *undo_log_marked(const struct undo_log *log, uint64_t id, const char *key)
{
	char name[32];

	snprintf(name, sizeof(name), "%llu", (unsigned long long)id);
	return json_object_get(json_object_get(log->marks, name), key);
}

struct world {
	struct undo_log log;
	struct state state;
	struct points points;
	struct fault fault;
};

static json_t *meta_of(uint64_t epoch, uint64_t time_ms, const char *kind, const char *name, bool consistent)
{
	return json_pack("{s:I, s:b, s:s, s:s?, s:I, s:I, s:[{s:i, s:s, s:s, s:I}]}", "epoch", (json_int_t)epoch,
			 "consistent", consistent, "kind", kind, "name", name, "time_ms", (json_int_t)time_ms,
			 "applied_ms", (json_int_t)time_ms + 500, "disks", "id", 0, "name", "root", "path",
			 "/dev/x", "size_bytes", (json_int_t)1048576);
}

/* Epochs are a minute apart. */
static json_t *meta(uint64_t time_ms, const char *kind, const char *name, bool consistent)
{
	return meta_of(time_ms / MINUTE_MS, time_ms, kind, name, consistent);
}

/* The next state of the chain; the one before it leads to it. */
static void state_add(struct world *w, uint64_t id, json_t *what, uint64_t bytes)
{
	struct undo_chain *chain = &w->log.chain;

	chain->entries = reallocarray(chain->entries, chain->count + 1, sizeof(*chain->entries));
	assert_non_null(chain->entries);
	memset(&chain->entries[chain->count], 0, sizeof(*chain->entries));
	if (chain->count)
		chain->entries[chain->count - 1].last = id;
	chain->entries[chain->count].base = id;
	chain->entries[chain->count].meta = what;
	chain->entries[chain->count++].bytes = bytes;
}

static void disk(struct world *w, const char *name, uint32_t id, uint64_t bytes)
{
	struct state_disk *d;

	w->state.disks = reallocarray(w->state.disks, w->state.disk_count + 1, sizeof(*d));
	assert_non_null(w->state.disks);
	d = &w->state.disks[w->state.disk_count++];
	memset(d, 0, sizeof(*d));
	snprintf(d->name, sizeof(d->name), "%s", name);
	d->id = id;
	d->source_bytes = bytes;
}

static void collect(struct world *w)
{
	points_clear(&w->points);
	assert_int_equal(points_collect(&w->points, &w->log, &w->state), 0);
}

static void present(struct world *w, uint64_t id, json_t *what)
{
	w->state.number = w->log.committed = id;
	if (w->log.chain.count)
		w->log.chain.entries[w->log.chain.count - 1].last = id;
	w->state.now = what;
}

/*
 *	#10 10:00 crash		#14 10:20 app "deploy"		#19 11:30 fuzzy
 *	#12 10:10 epoch		#17 11:00 crash "deploy-2"	#20 11:40 crash, the present
 */
static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
	tzset();
	w->log.marks = json_object();
	disk(w, "root", 0, 1048576);
	state_add(w, 10, meta(NOON_MS - 120 * MINUTE_MS, "crash", "crash-10", true), 4096);
	state_add(w, 12, meta(NOON_MS - 110 * MINUTE_MS, "epoch", NULL, true), 8192);
	state_add(w, 14, meta(NOON_MS - 100 * MINUTE_MS, "app", "deploy", true), 12288);
	state_add(w, 17, meta(NOON_MS - 60 * MINUTE_MS, "crash", "deploy-2", true), 16384);
	state_add(w, 19, meta(NOON_MS - 30 * MINUTE_MS, "epoch", NULL, false), 20480);
	present(w, 20, meta(NOON_MS - 20 * MINUTE_MS, "crash", "crash-20", true));
	collect(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	points_clear(&w->points);
	for (size_t i = 0; i < w->log.chain.count; i++)
		json_decref(w->log.chain.entries[i].meta);
	free(w->log.chain.entries);
	free(w->state.disks);
	json_decref(w->state.now);
	json_decref(w->log.marks);
	free(w);
	return 0;
}

/* "10 12 14": which are offered. */
static const char *ids(const struct world *w)
{
	static char out[256];
	size_t used = 0;

	out[0] = '\0';
	for (size_t i = 0; i < w->points.count; i++)
		used += (size_t)snprintf(out + used, sizeof(out) - used, "%s%llu", i ? " " : "",
					 (unsigned long long)w->points.points[i].id);
	return out;
}

static uint64_t chosen(struct world *w, const char *selector, bool whole)
{
	memset(&w->fault, 0, sizeof(w->fault));
	const struct point *point = points_select(&w->points, selector, whole, NOON_MS, &w->fault);

	/* A point, or a reason with a remedy, never both. */
	assert_int_equal(!point, *w->fault.message != 0);
	assert_int_equal(!point, *w->fault.remedy != 0);
	return point ? point->id : 0;
}

static bool says(const struct world *w, const char *what)
{
	if (strstr(w->fault.message, what) || strstr(w->fault.remedy, what))
		return true;
	print_error("\"%s\" is not in: %s (%s)\n", what, w->fault.message, w->fault.remedy);
	return false;
}

static void only_consistent_states_are_offered(void **state)
{
	struct world *w = *state;

	assert_string_equal(ids(w), "10 12 14 17 20");
	assert_true(w->points.points[2].app);
	assert_false(w->points.points[1].app);
	assert_int_equal(w->points.points[1].bytes, 8192);
	assert_true(w->points.points[4].present);
	assert_false(w->points.points[3].present);
	assert_int_equal(w->points.points[4].bytes, 0);
}

static void the_present_is_one_only_when_it_is_consistent(void **state)
{
	struct world *w = *state;

	w->state.between = true; /* the undo log takes back what an epoch has begun */
	collect(w);
	assert_string_equal(ids(w), "10 12 14 17 20");
	json_object_set_new(w->state.now, "consistent", json_false());
	collect(w);
	assert_string_equal(ids(w), "10 12 14 17");
	json_decref(w->state.now);
	w->state.now = NULL; /* syncing */
	collect(w);
	assert_string_equal(ids(w), "10 12 14 17");
}

static void without_a_log_the_present_is_all_there_is(void **state)
{
	struct world *w = *state;

	points_clear(&w->points);
	assert_int_equal(points_collect(&w->points, NULL, &w->state), 0);
	assert_string_equal(ids(w), "20");
	points_clear(&w->points);
	w->state.between = true; /* and nobody can take back what is half written */
	assert_int_equal(points_collect(&w->points, NULL, &w->state), 0);
	assert_int_equal(w->points.count, 0);
	assert_int_equal(chosen(w, "latest", true), 0);
	assert_true(says(w, "there is none yet"));
}

static void marks_count(void **state)
{
	struct world *w = *state;

	json_decref(w->log.marks);
	w->log.marks = json_loads("{\"12\":{\"discarded\":true},\"14\":{\"pinned\":true,\"verified\":"
				  "{\"result\":\"good\",\"time_ms\":5}},\"17\":{\"pinned\":false,\"discarded\":false}}",
				  0, NULL);
	collect(w);
	assert_string_equal(ids(w), "10 14 17 20");
	assert_true(w->points.points[1].pinned);
	assert_string_equal(json_string_value(json_object_get(w->points.points[1].verified, "result")), "good");
	assert_false(w->points.points[2].pinned);
	assert_null(w->points.points[2].verified);
}

static void a_point_is_complete_when_it_has_every_disk(void **state)
{
	struct world *w = *state;

	w->state.disks[0].source_bytes = 2097152; /* grown since: fine */
	collect(w);
	assert_true(w->points.points[0].complete);
	w->state.disks[0].source_bytes = 524288;
	collect(w);
	assert_false(w->points.points[0].complete);
	assert_string_equal(w->points.points[0].why, "disk root was larger then (1048576 bytes, now 524288)");
	w->state.disks[0].source_bytes = 1048576;
	disk(w, "data", 1, 4096);
	collect(w);
	assert_false(w->points.points[0].complete);
	assert_string_equal(w->points.points[0].why, "disk data is not in it");
	w->state.disks[1].id = 0; /* the same number is not the same disk */
	collect(w);
	assert_false(w->points.points[0].complete);
}

static void whole_ones_only_for_a_group(void **state)
{
	struct world *w = *state;

	disk(w, "data", 1, 4096);
	json_array_append_new(json_object_get(w->log.chain.entries[1].meta, "disks"),
			      json_pack("{s:i, s:s, s:I}", "id", 1, "name", "data", "size_bytes", (json_int_t)4096));
	collect(w);
	assert_int_equal(chosen(w, "latest", false), 20);
	assert_int_equal(chosen(w, "latest", true), 12);
	assert_int_equal(chosen(w, "11:45", true), 12);
	assert_int_equal(chosen(w, "11:45", false), 20);
	assert_int_equal(chosen(w, "latest-app", true), 0);
	assert_true(says(w, "application-consistent and has every disk"));
	assert_int_equal(chosen(w, "10:05", true), 0);
	assert_true(says(w, "no point with every disk goes back to"));
	assert_true(says(w, "#12"));
	assert_int_equal(chosen(w, "deploy", false), 14);
	assert_int_equal(chosen(w, "deploy", true), 0);
	assert_true(says(w, "disk data is not in it"));
	assert_true(says(w, "before it #12"));
	assert_int_equal(chosen(w, "#10", true), 0);
	assert_true(says(w, "after it #12"));
}

static void by_words_names_and_numbers(void **state)
{
	struct world *w = *state;

	assert_int_equal(chosen(w, "latest", true), 20);
	assert_int_equal(chosen(w, "latest-app", true), 14);
	assert_int_equal(chosen(w, "deploy", true), 14);
	assert_int_equal(chosen(w, "deploy-2", true), 17);
	assert_int_equal(chosen(w, "#12", true), 12);
	assert_int_equal(chosen(w, "12", true), 12);
	assert_int_equal(chosen(w, "depl", true), 0);
	assert_true(says(w, "no point has that name"));
	assert_true(says(w, "the oldest is #10"));
	assert_true(says(w, "the newest #20"));
	assert_int_equal(chosen(w, "", true), 0);
	assert_int_equal(chosen(w, "#", true), 0);
	assert_int_equal(chosen(w, "#12x", true), 0);
	assert_int_equal(chosen(w, "99999999999999999999999999", true), 0);
	assert_int_equal(chosen(w, "13", true), 0);
	assert_true(says(w, "before it #12"));
	assert_true(says(w, "after it #14 \"deploy\" (2026-11-30 10:20:00)"));
	/* 19 is a state, but not a consistent one */
	assert_int_equal(chosen(w, "#19", true), 0);
	assert_true(says(w, "before it #17"));
}

static void a_name_of_digits_goes_before_a_number(void **state)
{
	struct world *w = *state;

	json_object_set_new(w->log.chain.entries[2].meta, "name", json_string("12"));
	collect(w);
	assert_int_equal(chosen(w, "12", true), 14);
	assert_int_equal(chosen(w, "#12", true), 12);
	json_object_set_new(w->log.chain.entries[2].meta, "name", json_string("#12"));
	collect(w);
	assert_int_equal(chosen(w, "#12", true), 12);
}

static void an_ambiguous_name_says_which_there_are(void **state)
{
	struct world *w = *state;

	json_object_set_new(w->log.chain.entries[3].meta, "name", json_string("deploy"));
	collect(w);
	assert_int_equal(chosen(w, "deploy", true), 0);
	assert_string_equal(w->fault.code, "ambiguous");
	assert_true(says(w, "2 points"));
	assert_true(says(w, "#14 (2026-11-30 10:20:00), #17 (2026-11-30 11:00:00)"));
}

static void by_time(void **state)
{
	struct world *w = *state;

	assert_int_equal(chosen(w, "10:20", true), 14);
	assert_int_equal(chosen(w, "10:19:59", true), 12);
	assert_int_equal(chosen(w, "2026-11-30 10:20", true), 14);
	assert_int_equal(chosen(w, "2026-11-30T09:20:00Z", true), 14);
	assert_int_equal(chosen(w, "2026-11-30T09:19:59.999Z", true), 12);
	assert_int_equal(chosen(w, "2026-11-30T10:20:00+01:00", true), 14);
	assert_int_equal(chosen(w, "@1796030400", true), 14);
	assert_int_equal(chosen(w, "@1796030399.999", true), 12);
	assert_int_equal(chosen(w, "12:00", true), 20);
	/* 11:30 is a state, but not a consistent one */
	assert_int_equal(chosen(w, "11:35", true), 17);
	assert_int_equal(chosen(w, "09:59", true), 0);
	assert_true(says(w, "no point goes back to 2026-11-30 09:59:00"));
	assert_true(says(w, "the oldest is #10"));
	assert_int_equal(chosen(w, "23:50", true), 0); /* yesterday's, but nobody said so */
	assert_true(says(w, "has not come yet"));
	assert_true(says(w, "name the day"));
	assert_int_equal(chosen(w, "2026-12-30 00:00", true), 0);
	assert_true(says(w, "has not come yet"));
}

/* #14 was rolled back to: 21 is its copy, and 20 was fuzzy when that was done. */
static void rolled_back(struct world *w, json_t *before)
{
	json_t *copy = meta(NOON_MS - 100 * MINUTE_MS, "app", "deploy", true);

	json_object_set_new(copy, "rolled_back", json_integer(14));
	json_decref(w->state.now);
	state_add(w, 20, before, 4096);
	present(w, 21, copy);
	w->state.rollback_from = 20;
	collect(w);
}

static void a_rollback_can_be_taken_back(void **state)
{
	struct world *w = *state;

	assert_int_equal(chosen(w, "undo", true), 0);
	assert_true(says(w, "no rollback to take back"));
	rolled_back(w, meta(NOON_MS - 20 * MINUTE_MS, "epoch", NULL, false));
	/* What was before is offered for that alone: it is not consistent. */
	assert_string_equal(ids(w), "10 12 14 17 20 21");
	assert_true(w->points.points[4].before_rollback);
	assert_false(w->points.points[4].consistent);
	assert_int_equal(chosen(w, "undo", true), 20);
	assert_int_equal(chosen(w, "#20", true), 20);
	assert_int_equal(chosen(w, "latest", true), 17);
	assert_int_equal(chosen(w, "latest-app", true), 21);
	assert_int_equal(chosen(w, "12:00", true), 17);
	w->state.rollback_from = 0;
	collect(w);
	assert_string_equal(ids(w), "10 12 14 17 21");
}

static void the_original_counts_not_its_copy(void **state)
{
	struct world *w = *state;

	rolled_back(w, meta(NOON_MS - 20 * MINUTE_MS, "crash", "crash-20", true));
	assert_int_equal(chosen(w, "deploy", true), 14);
	assert_int_equal(chosen(w, "10:20", true), 14);
	/* The newest content, not what is on the disks; and then it is on the disks. */
	assert_int_equal(chosen(w, "latest", true), 20);
	/* A copy of the copy, too; and two copies whose original is gone. */
	json_t *again = meta(NOON_MS - 100 * MINUTE_MS, "app", "deploy", true);

	json_object_set_new(again, "rolled_back", json_integer(21));
	state_add(w, 21, w->state.now, 4096);
	present(w, 25, again);
	collect(w);
	assert_int_equal(chosen(w, "deploy", true), 14);
	json_object_set_new(w->log.marks, "14", json_pack("{s:b}", "discarded", 1));
	collect(w);
	assert_int_equal(chosen(w, "deploy", true), 21);
}

static void a_point_as_json(void **state)
{
	struct world *w = *state;
	CLEANUP_JSON json_t *app = point_json(&w->points.points[2], NOON_MS);
	CLEANUP_JSON json_t *plain = point_json(&w->points.points[1], NOON_MS);
	CLEANUP_JSON json_t *wanted = json_loads(
		"{\"id\":14,\"kind\":\"app\",\"name\":\"deploy\",\"time\":\"2026-11-30T09:20:00.000Z\",\"time_ms\":1796030400000,"
		"\"epoch\":29933840,\"applied_ms\":1796030400500,\"age_ms\":6000000,\"size_bytes\":12288,\"present\":false,"
		"\"consistent\":true,\"complete\":true,\"why\":null,\"pinned\":false,\"verified\":null,"
		"\"before_rollback\":false,\"copy_of\":0,"
		"\"disks\":[{\"id\":0,\"name\":\"root\",\"path\":\"/dev/x\",\"size_bytes\":1048576}]}",
		0, NULL);

	assert_true(json_equal(app, wanted));
	assert_string_equal(json_string_value(json_object_get(plain, "kind")), "crash");
	assert_true(json_is_null(json_object_get(plain, "name")));
}

static void moments(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms; /* 0: refused */
	} cases[] = {
		{ "2026-11-30 03:12", 1796004720000 },
		{ "2026-11-30T03:12:05", 1796004725000 },
		{ "2026-11-30 03:12:05.25", 1796004725250 },
		{ "2026-11-30T03:12:05.2509Z", 1796008325250 },
		{ "2026-11-30T03:12-0330", 1796020920000 },
		{ "03:12", 1796004720000 },
		{ "@1796008320.250", 1796008320250 },
		{ "2026-03-29 02:30", 0 },		/* summer time skips it */
		{ "2026-10-25 02:30", 1792888200000 },	/* the clock shows it twice: the first */
		{ "2026-10-25T02:30+01:00", 1792891800000 },
		{ "2026-02-29 10:00", 0 },
		{ "2024-02-29 10:00", 1709197200000 },
		{ "2024-02-30T10:00Z", 0 },
		{ "2026-13-01 10:00", 0 },
		{ "2026-11-30", 0 },
		{ "2026-11-30 3:12", 0 },
		{ "2026-11-30 24:00", 0 },
		{ "2026-11-30 03:60", 0 },
		{ "2026-11-30 03:12:61", 0 },
		{ "2026-11-30 03:12 ", 0 },
		{ "2026-11-30 03:12:05.", 0 },
		{ "2026-11-30 03:12+25:00", 0 },
		{ "03:12Z", 0 },
		{ "@", 0 },
		{ "@-5", 0 },
		{ "@1796008320250", 0 },
		{ "@99999999999999", 0 },
		{ "@12x", 0 },
		{ "", 0 },
		{ "yesterday", 0 },
	};
	char out[WALL_TIME_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
		uint64_t ms = 0;
		int r = points_parse_time(cases[i].text, NOON_MS, &ms);

		if (r != (cases[i].ms ? 0 : -EINVAL) || (!r && ms != cases[i].ms))
			fail_msg("\"%s\": %d, %llu instead of %llu", cases[i].text, r, (unsigned long long)ms,
				 (unsigned long long)cases[i].ms);
	}
	assert_string_equal(wall_time_text(1796004725250, out), "2026-11-30 03:12:05");
	assert_string_equal(wall_time_zone(1796004725250, out), "CET (+0100)");
	assert_string_equal(wall_time_rfc3339(1796004725250, out), "2026-11-30T02:12:05.250Z");
	wall_time_text(UINT64_MAX, out); /* out of any calendar, not out of the buffer */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(only_consistent_states_are_offered),
		TEST(the_present_is_one_only_when_it_is_consistent),
		TEST(without_a_log_the_present_is_all_there_is),
		TEST(marks_count),
		TEST(a_point_is_complete_when_it_has_every_disk),
		TEST(whole_ones_only_for_a_group),
		TEST(by_words_names_and_numbers),
		TEST(a_name_of_digits_goes_before_a_number),
		TEST(an_ambiguous_name_says_which_there_are),
		TEST(by_time),
		TEST(a_rollback_can_be_taken_back),
		TEST(the_original_counts_not_its_copy),
		TEST(a_point_as_json),
		TEST(moments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
