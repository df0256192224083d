/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which recovery points are kept and which layers are merged: every row of the policy by itself, and three days of a
 * machine in which the points that are there must be those of the policy at every step, and the bytes that merging
 * copies stay bounded.
 */
/* LINK: userspace/master-target/retention.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/master-target/retention.h"
#include "util.h"

#define MIN_MS 60000ull
#define HOUR_MS (60 * MIN_MS)
#define NOW_MS (473352 * HOUR_MS + 30 * MIN_MS) /* half past an hour */

static const struct retention_policy defaults = { .keep_all_ms = 2 * HOUR_MS,
						  .keep_hourly_ms = 24 * HOUR_MS,
						  .keep_app_ms = 72 * HOUR_MS };

static struct retention_state point(uint64_t age_ms)
{
	return (struct retention_state){ .time_ms = NOW_MS - age_ms, .point = true };
}

static void decide(const struct retention_policy *policy, uint64_t now_ms, struct retention_state *states, size_t count)
{
	for (size_t i = 0; i < count; i++)
		states[i].age_ms = now_ms > states[i].time_ms ? now_ms - states[i].time_ms : 0;
	retention_decide(policy, states, count);
}

/* A state of that age, and what is behind it: one point a minute for an hour, then the present. */
static struct retention_state decided(const struct retention_policy *policy, struct retention_state state)
{
	struct retention_state states[62];

	states[0] = state;
	for (size_t i = 1; i < ARRAY_LENGTH(states); i++) {
		states[i] = (struct retention_state){ .time_ms = state.time_ms + i * MIN_MS, .point = true };
		if (state.time_ms % HOUR_MS + MIN_MS >= HOUR_MS) /* the last of its hour stays that */
			states[i].time_ms += MIN_MS;
	}
	decide(policy, NOW_MS, states, ARRAY_LENGTH(states));
	assert_true(states[61].keep);
	return states[0];
}

static bool kept(const struct retention_policy *policy, struct retention_state state)
{
	return decided(policy, state).keep;
}

static void test_any_point_is_kept_for_a_while(void **state)
{
	struct retention_policy none = { 0 };

	(void)state;
	assert_true(kept(&defaults, point(0)));
	assert_true(kept(&defaults, point(2 * HOUR_MS - 1)));
	assert_false(kept(&defaults, point(2 * HOUR_MS)));
	assert_false(kept(&none, point(0)));
	assert_false(decided(&defaults, point(MIN_MS)).lasting);
}

static void test_the_last_of_each_hour_is_kept_longer(void **state)
{
	struct retention_policy none = defaults;
	struct retention_state last = decided(&defaults, point(20 * HOUR_MS + 30 * MIN_MS + 1));

	(void)state;
	assert_true(last.keep && last.lasting); /* a millisecond before the hour */
	assert_false(kept(&defaults, point(20 * HOUR_MS + 30 * MIN_MS)));
	assert_true(kept(&defaults, point(23 * HOUR_MS + 30 * MIN_MS + 1)));
	assert_false(kept(&defaults, point(24 * HOUR_MS + 30 * MIN_MS + 1)));
	none.keep_hourly_ms = 0;
	assert_false(kept(&none, point(20 * HOUR_MS + 30 * MIN_MS + 1)));
}

/* One each side of an hour's boundary; what is discarded or no point is not the last of anything. */
static void test_an_hour_begins_at_its_first_millisecond(void **state)
{
	uint64_t hour = NOW_MS - 30 * MIN_MS - 10 * HOUR_MS;
	struct retention_state s[] = { { .time_ms = hour - 2, .point = true },
				       { .time_ms = hour - 1, .point = true },
				       { .time_ms = hour, .point = true },
				       { .time_ms = hour + HOUR_MS - 2, .point = true },
				       { .time_ms = hour + HOUR_MS - 1, .point = true, .discarded = true },
				       { .time_ms = hour + HOUR_MS - 1 },
				       { .time_ms = hour + HOUR_MS, .point = true },
				       { .time_ms = NOW_MS, .point = true } };
	const bool expected[] = { false, true, false, true, false, false, true, true };

	(void)state;
	decide(&defaults, NOW_MS, s, ARRAY_LENGTH(s));
	for (size_t i = 0; i < ARRAY_LENGTH(s); i++)
		assert_int_equal(s[i].keep, expected[i]);
}

/* An application-consistent point is as good as a crash-consistent one for its hour. */
static void test_an_app_point_is_kept_longest(void **state)
{
	struct retention_state app = point(50 * HOUR_MS);
	struct retention_policy short_app = defaults;
	struct retention_state hourly = point(20 * HOUR_MS + 30 * MIN_MS + 1);

	(void)state;
	app.app = true;
	assert_true(decided(&defaults, app).lasting);
	app.time_ms = NOW_MS - 72 * HOUR_MS;
	assert_false(kept(&defaults, app));
	app.time_ms = NOW_MS - 72 * HOUR_MS + 1;
	assert_true(kept(&defaults, app));
	short_app.keep_app_ms = 0;
	assert_false(kept(&short_app, app));
	hourly.app = true;
	assert_true(kept(&short_app, hourly));
}

static void test_pinned_used_and_newest_are_never_dropped(void **state)
{
	struct retention_policy none = { 0 };
	struct retention_state old = point(1000 * HOUR_MS), only[1];

	(void)state;
	assert_false(kept(&none, old));
	old.pinned = true;
	assert_true(decided(&none, old).keep && decided(&none, old).lasting);
	old.pinned = false;
	old.used = true;
	assert_true(kept(&none, old) && !decided(&none, old).lasting);
	only[0] = (struct retention_state){ .time_ms = 0, .discarded = true };
	decide(&none, NOW_MS, only, 1);
	assert_true(only[0].keep);
	decide(&none, NOW_MS, NULL, 0);
}

static void test_what_is_no_point_is_not_kept_for_itself(void **state)
{
	struct retention_state fuzzy = point(MIN_MS);

	(void)state;
	fuzzy.point = false;
	fuzzy.app = true;
	assert_false(kept(&defaults, fuzzy));
	fuzzy.used = true;
	assert_true(kept(&defaults, fuzzy));
}

static void test_a_discarded_point_goes_unless_it_is_needed(void **state)
{
	struct retention_state gone = point(MIN_MS);

	(void)state;
	gone.discarded = gone.app = true;
	assert_false(kept(&defaults, gone));
	gone.used = true;
	assert_true(kept(&defaults, gone));
	gone.used = false;
	gone.pinned = true;
	assert_true(kept(&defaults, gone));
}

static void test_layers_that_lead_to_nothing_kept_are_expired(void **state)
{
	struct retention_state s[4] = { 0 };

	(void)state;
	assert_int_equal(retention_expired_head(s, 0), 0);
	assert_int_equal(retention_expired_head(s, 1), 0);
	s[3].keep = true;
	assert_int_equal(retention_expired_head(s, 4), 3);
	s[1].keep = true;
	assert_int_equal(retention_expired_head(s, 4), 1);
	s[0].keep = true;
	assert_int_equal(retention_expired_head(s, 4), 0);
}

/* ---- merging ------------------------------------------------------------------ */

/* Layers of these sizes between a kept state and one that is lasting or not. */
static size_t row(struct retention_state *s, const unsigned *sizes, size_t count, bool lasting)
{
	memset(s, 0, (count + 1) * sizeof(*s));
	for (size_t i = 0; i < count; i++)
		s[i].bytes = sizes[i];
	s[0].keep = s[count].keep = true;
	s[count].lasting = lasting;
	return count + 1;
}

static void expect(const struct retention_state *s, size_t count, size_t first, size_t merged)
{
	struct retention_merge merge = { 0 };

	assert_int_equal(retention_next_merge(s, count, &merge), merged != 0);
	assert_int_equal(merge.first, first);
	assert_int_equal(merge.count, merged);
}

static void test_what_nothing_will_join_is_merged_at_once(void **state)
{
	struct retention_state s[16];
	const unsigned equal[] = { 100, 100 }, quarter[] = { 400, 100 }, less[] = { 404, 100 };
	const unsigned middle[] = { 10, 10, 1000, 7, 7 };

	(void)state;
	expect(s, row(s, equal, 2, true), 0, 2);
	expect(s, row(s, quarter, 2, true), 0, 2);
	expect(s, row(s, less, 2, true), 0, 0);
	expect(s, row(s, middle, 5, true), 3, 2); /* the smaller ones first, never the large one */
	s[4].keep = true;
	expect(s, 6, 0, 0); /* nothing on either side of it, and what is before it is not lasting */
	s[4].lasting = true;
	expect(s, 6, 0, 2);
}

static void test_what_more_will_join_gathers(void **state)
{
	struct retention_state s[16];
	const unsigned seven[] = { 10, 10, 10, 10, 10, 10, 10 }, eight[] = { 9, 10, 10, 10, 10, 10, 10, 10, 10 };
	const unsigned large[] = { 1000, 10, 10, 10, 10, 10, 10, 10, 10 }, most[] = { 10, 10, 10, 10, 40, 10, 10, 10 };

	(void)state;
	expect(s, row(s, seven, 7, false), 0, 0);
	expect(s, row(s, seven, 7, true), 0, 7);
	expect(s, row(s, eight, 9, false), 0, 8); /* the smallest eight */
	expect(s, row(s, large, 9, false), 1, 8);
	expect(s, row(s, most, 8, false), 0, 0);
}

static void test_what_is_kept_is_never_merged_over(void **state)
{
	struct retention_state s[64];
	struct retention_merge merge;

	(void)state;
	srand(1);
	for (unsigned round = 0; round < 20000; round++) {
		size_t count = (size_t)rand() % ARRAY_LENGTH(s);
		size_t head;

		for (size_t i = 0; i < count; i++)
			s[i] = (struct retention_state){ .bytes = (uint64_t)rand() >> rand() % 31,
							 .keep = !(rand() % 8), .lasting = rand() % 2 };
		if (count)
			s[count - 1].keep = true;
		head = retention_expired_head(s, count);
		if (!retention_next_merge(s, count, &merge))
			continue;
		assert_true(merge.count >= 2 && merge.first >= head && merge.first + merge.count < count);
		for (size_t i = merge.first + 1; i < merge.first + merge.count; i++)
			assert_false(s[i].keep);
	}
}

/* All becomes one in the end (or two, where one is small beside the other), a bounded number of files at a time. */
static void test_a_long_row_is_merged_in_parts(void **state)
{
	size_t count = 3000;
	struct retention_state *s = calloc(count, sizeof(*s));
	struct retention_merge merge;

	(void)state;
	assert_non_null(s);
	for (size_t i = 0; i < count; i++)
		s[i] = (struct retention_state){ .bytes = 100 };
	s[0].keep = s[count - 1].keep = s[count - 1].lasting = true;
	while (retention_next_merge(s, count, &merge)) {
		assert_true(merge.count <= RETENTION_MERGE_LAYERS);
		for (size_t i = 1; i < merge.count; i++)
			s[merge.first].bytes += s[merge.first + i].bytes;
		memmove(&s[merge.first + 1], &s[merge.first + merge.count],
			(count - merge.first - merge.count) * sizeof(*s));
		count -= merge.count - 1;
	}
	assert_true(count <= 3);
	free(s);
}

/* ---- three days of a machine ---------------------------------------------------- */

#define STEP_MS 5000u
#define STEPS (72 * HOUR_MS / STEP_MS)
#define APP_STEPS (HOUR_MS / STEP_MS)

struct life {
	struct retention_state *states, *history; /* history: all points that ever were */
	size_t count;
	uint64_t written, copied, working_set; /* 0: nothing is written twice */
	size_t most_layers, most_idle, merges;
};

/* What two layers take together: all, or less where they have the same blocks. */
static uint64_t joined(const struct life *life, uint64_t a, uint64_t b)
{
	return life->working_set ? a + b - a / 16 * b / (life->working_set / 16) : a + b;
}

static void merge_some(struct life *life)
{
	struct retention_merge merge;
	size_t head = retention_expired_head(life->states, life->count);

	memmove(life->states, life->states + head, (life->count - head) * sizeof(*life->states));
	life->count -= head;
	while (retention_next_merge(life->states, life->count, &merge)) {
		struct retention_state *first = &life->states[merge.first];

		for (size_t i = 1; i < merge.count; i++)
			first->bytes = joined(life, first->bytes, first[i].bytes);
		life->copied += first->bytes;
		memmove(first + 1, first + merge.count,
			(life->count - merge.first - merge.count) * sizeof(*first));
		life->count -= merge.count - 1;
		life->merges++;
	}
}

/* The policy, said another way: about a point by its step. @step is the present. */
static bool wanted(const struct life *life, size_t point, size_t step)
{
	const uint64_t now_ms = life->history[step].time_ms, age_ms = now_ms - life->history[point].time_ms;
	uint64_t hour = life->history[point].time_ms / HOUR_MS;
	bool last = point == step || life->history[point + 1].time_ms / HOUR_MS != hour;

	return point == step || age_ms < defaults.keep_all_ms || (last && age_ms < defaults.keep_hourly_ms) ||
	       (life->history[point].app && age_ms < defaults.keep_app_ms);
}

static void check_step(struct life *life, size_t step, size_t oldest_checked)
{
	size_t at = 0, idle = 0;

	for (size_t point = oldest_checked; point <= step; point++) {
		bool there;

		while (at < life->count && life->states[at].id < point)
			at++;
		there = at < life->count && life->states[at].id == point;
		assert_int_equal(there && life->states[at].keep, wanted(life, point, step));
	}
	for (size_t i = 0; i < life->count; i++)
		idle += !life->states[i].keep;
	if (life->count - 1 > life->most_layers)
		life->most_layers = life->count - 1;
	if (idle > life->most_idle)
		life->most_idle = idle;
}

static void live(struct life *life, uint64_t (*bytes)(size_t step), const char *name)
{
	life->states = calloc(STEPS, sizeof(*life->states));
	life->history = calloc(STEPS + 1, sizeof(*life->history));
	assert_true(life->states && life->history);
	for (size_t step = 0; step < STEPS; step++) {
		uint64_t now_ms = NOW_MS + step * STEP_MS;

		if (step) {
			life->states[life->count - 1].bytes = bytes(step);
			life->written += life->states[life->count - 1].bytes;
		}
		life->history[step] = (struct retention_state){ .id = step, .time_ms = now_ms, .point = true,
								.app = step % APP_STEPS == 7 };
		life->states[life->count++] = life->history[step];
		decide(&defaults, now_ms, life->states, life->count);
		merge_some(life);
		/* All that the policy may still want: the last two hours each time, everything now and then. */
		check_step(life, step, step % 360 && step > 1500 ? step - 1500 : 0);
	}
	print_message("%s: %.2f bytes copied for each written, %zu merges, at most %zu layers, %zu states nobody wants\n",
		      name, (double)life->copied / (double)life->written, life->merges, life->most_layers,
		      life->most_idle);
	assert_true(life->copied < 8 * life->written);
	assert_true(life->most_idle < 300);
	free(life->states);
	free(life->history);
}

static uint64_t equal_bytes(size_t step)
{
	(void)step;
	return 64 * MIB;
}

static uint64_t random_bytes(size_t step)
{
	(void)step;
	return 12 * KIB + ((uint64_t)rand() >> rand() % 20);
}

/* A busy quarter of an hour, then nothing. */
static uint64_t bursts(size_t step)
{
	return step / 180 % 4 ? 12 * KIB : 256 * MIB;
}

static uint64_t rare_bursts(size_t step)
{
	return step % 97 ? 300 * KIB : GIB;
}

static void test_three_days_of_equal_epochs(void **state)
{
	struct life life = { 0 };

	(void)state;
	live(&life, equal_bytes, "equal");
	/* 2 h of points, an hour's for each of 24 h and one app point an hour: and what is not merged yet */
	assert_true(life.most_layers < 2 * 720 + 24 + 72 + 30);
}

static void test_three_days_of_the_same_blocks(void **state)
{
	struct life life = { .working_set = GIB };

	(void)state;
	live(&life, equal_bytes, "the same blocks");
}

static void test_three_days_of_random_epochs(void **state)
{
	struct life life = { 0 };

	(void)state;
	srand(2);
	live(&life, random_bytes, "random");
}

static void test_three_days_of_bursts(void **state)
{
	struct life a = { 0 }, b = { 0 };

	(void)state;
	live(&a, bursts, "bursts");
	live(&b, rare_bursts, "rare bursts");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_point_is_kept_for_a_while),
		cmocka_unit_test(test_the_last_of_each_hour_is_kept_longer),
		cmocka_unit_test(test_an_hour_begins_at_its_first_millisecond),
		cmocka_unit_test(test_an_app_point_is_kept_longest),
		cmocka_unit_test(test_pinned_used_and_newest_are_never_dropped),
		cmocka_unit_test(test_what_is_no_point_is_not_kept_for_itself),
		cmocka_unit_test(test_a_discarded_point_goes_unless_it_is_needed),
		cmocka_unit_test(test_layers_that_lead_to_nothing_kept_are_expired),
		cmocka_unit_test(test_what_nothing_will_join_is_merged_at_once),
		cmocka_unit_test(test_what_more_will_join_gathers),
		cmocka_unit_test(test_what_is_kept_is_never_merged_over),
		cmocka_unit_test(test_a_long_row_is_merged_in_parts),
		cmocka_unit_test(test_three_days_of_equal_epochs),
		cmocka_unit_test(test_three_days_of_the_same_blocks),
		cmocka_unit_test(test_three_days_of_random_epochs),
		cmocka_unit_test(test_three_days_of_bursts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
