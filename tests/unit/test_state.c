/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How time passes for recovery points ("active_ms" of state_describe()): by the shorter of two clocks, and not in a pause.
 */
/* LINK: userspace/master-target/state.c userspace/master-target/tags.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "userspace/master-target/state.h"
#include "util.h"
#include "wall_time.h"

#define SECOND_MS 1000ll
#define HOUR_MS (3600 * SECOND_MS)
#define YEAR_MS (8760 * HOUR_MS)
#define BEFORE_MS 123456789ll
#define TEST_MS 60000ll /* no test takes that long */

/*
 * The time that passes from one epoch to the next: @applied ms between their ends by the master target's clock, @cuts between their
 * cuts by the source's; 0: the later one's cut is not known. @known: the earlier one's is.
 */
static int64_t passed(int64_t applied, int64_t cuts, bool known)
{
	int64_t now = (int64_t)util_wall_ms(), cut = now - 3 * HOUR_MS; /* the source's clock is three hours behind */
	char text[WALL_TIME_BYTES];
	struct state state;
	CLEANUP_JSON json_t *tag = NULL, *described = NULL;
	int64_t active;

	state_init(&state, "/nonexistent", "00000000-0000-4000-8000-000000000001");
	state.now = json_pack("{s:I, s:I, s:I}", "active_ms", (json_int_t)BEFORE_MS, "applied_ms", (json_int_t)(now - applied),
			      "time_ms", (json_int_t)(cut - cuts));
	if (known)
		json_object_set_new(state.now, "time", json_string(wall_time_rfc3339((uint64_t)(cut - cuts), text)));
	if (cuts)
		tag = json_pack("{s:s, s:s, s:s}", "kind", "crash", "name", "c", "time", wall_time_rfc3339((uint64_t)cut, text));
	described = state_describe(&state, 7, true, tag);
	assert_non_null(described);
	active = json_integer_value(json_object_get(described, "active_ms"));
	state_clear(&state);
	return active - BEFORE_MS;
}

#define assert_about(value, expected)                                          \
	do {                                                                   \
		int64_t _value = (value);                                      \
		assert_true(_value >= (expected) && _value < (expected) + TEST_MS); \
	} while (0)

static void test_time_passes_as_epochs_come(void **state)
{
	(void)state;
	assert_int_equal(passed(5 * SECOND_MS, 5 * SECOND_MS, true), 5 * SECOND_MS);
	assert_about(passed(5 * SECOND_MS, 5100, true), 5 * SECOND_MS);
	/* Without a tag there is but one clock. */
	assert_about(passed(7 * SECOND_MS, 0, true), 7 * SECOND_MS);
	assert_about(passed(7 * SECOND_MS, 3 * SECOND_MS, false), 7 * SECOND_MS);
}

static void test_a_clock_that_is_set_makes_nothing_old(void **state)
{
	(void)state;
	assert_about(passed(5 * SECOND_MS, YEAR_MS, true), 5 * SECOND_MS);
	assert_int_equal(passed(YEAR_MS, 5 * SECOND_MS, true), 5 * SECOND_MS);
	assert_int_equal(passed(5 * SECOND_MS, -YEAR_MS, true), 0);
	assert_int_equal(passed(-YEAR_MS, 5 * SECOND_MS, true), 0);
}

static void test_a_pause_makes_nothing_old(void **state)
{
	(void)state;
	assert_int_equal(passed(60 * HOUR_MS, 60 * HOUR_MS, true), STATE_PAUSE_MS);
	assert_int_equal(passed(60 * HOUR_MS, 0, false), STATE_PAUSE_MS);
	/* What was cut over a night and comes all at once. */
	assert_about(passed(1 * SECOND_MS, 8 * HOUR_MS, true), 1 * SECOND_MS);
}

static void test_it_begins_at_nothing(void **state)
{
	struct state first;
	CLEANUP_JSON json_t *described = NULL;

	(void)state;
	state_init(&first, "/nonexistent", "00000000-0000-4000-8000-000000000001");
	described = state_describe(&first, 1, true, NULL);
	assert_true(json_is_integer(json_object_get(described, "active_ms")));
	assert_int_equal(json_integer_value(json_object_get(described, "active_ms")), 0);
	state_clear(&first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_time_passes_as_epochs_come),
		cmocka_unit_test(test_a_clock_that_is_set_makes_nothing_old),
		cmocka_unit_test(test_a_pause_makes_nothing_old),
		cmocka_unit_test(test_it_begins_at_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
