/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of what reprotect status says about consistency and tags, and of the holds behind it. */
/* LINK: userspace/cli/status_points.c userspace/cli/format.c userspace/cli/client.c */
#include "cbt.h"
#include "userspace/cli/cli.h"
#include "util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define NOW_MS 1704067260000u /* 2024-01-01T00:01:00Z */

static char *shown(void (*show)(const json_t *json, uint64_t now_ms, FILE *out), const char *text)
{
	CLEANUP_JSON json_t *json = json_loads(text, 0, NULL);
	char *out = NULL;
	size_t bytes;
	FILE *stream = open_memstream(&out, &bytes);

	assert_non_null(json);
	assert_non_null(stream);
	show(json, NOW_MS, stream);
	fclose(stream);
	return out;
}

#define HOLDS "\"holds\":{\"count\":7,\"p50_ns\":8192,\"p99_ns\":65536,\"max_ns\":41000000}"
#define PRESERVE "\"preserve\":{\"held_bytes\":1048576,\"budget_bytes\":67108864,\"granules\":3}"

static void consistent(void **state)
{
	CLEANUP_FREE char *out = shown(status_points,
		"{\"points\":{\"epoch\":9,\"mode\":\"consistent\",\"downgrades\":2," PRESERVE "," HOLDS "},"
		"\"tags\":{\"crash\":{\"name\":\"crash-9\",\"epoch\":9,\"age_ms\":3000},\"app\":null,\"job\":null},"
		"\"snapshot\":null}");

	(void)state;
	assert_string_equal(out,
		"  consistency   epoch 9 is consistent\n"
		"  tags          crash: crash-9 (epoch 9), 3.0 s ago; app: none yet\n"
		"  holds         7: median up to 8.2 us, p99 up to 66 us, longest 41 ms\n"
		"  preserve      1 MiB held of 64 MiB, 2 epochs downgraded\n");
}

static void fuzzy_says_why_and_what_to_do(void **state)
{
	CLEANUP_FREE char *out = shown(status_points,
		"{\"points\":{\"epoch\":9,\"mode\":\"fuzzy\",\"why\":\"no \\u001broom\",\"remedy\":\"raise it\",\"downgrades\":1,"
		PRESERVE "},\"tags\":{\"crash\":null,\"app\":null,\"job\":{\"active\":false,\"name\":\"n\",\"error\":"
		"{\"message\":\"tag n (app): failed\",\"remedy\":\"look\"}}},"
		"\"snapshot\":{\"disk\":\"root\",\"state\":\"open\",\"image\":\"/dev/i0\",\"open_ms\":60000,\"preserved_bytes\":0,"
		"\"budget_bytes\":67108864}}");

	(void)state;
	assert_string_equal(out,
		"  consistency   epoch 9 is FUZZY: no ?room\n"
		"    to do: raise it\n"
		"  tags          crash: none yet; app: none yet\n"
		"  last tag job  failed: tag n (app): failed\n"
		"    to do: look\n"
		"  preserve      1 MiB held of 64 MiB, 1 epochs downgraded\n"
		"  snapshot      disk root open for 1 min 00 s at /dev/i0, 0 B of 64 MiB held; REPLICATION WAITS\n"
		"    to do: reprotect disk snapshot --release root\n");
}

static void of_an_older_agent_nothing_is_said(void **state)
{
	CLEANUP_FREE char *agent = shown(status_points, "{}");
	CLEANUP_FREE char *target = shown(status_target_points, "{}");

	(void)state;
	assert_string_equal(agent, "");
	assert_string_equal(target, "");
}

static void target(void **state)
{
	CLEANUP_FREE char *good = shown(status_target_points,
		"{\"epoch\":{\"epoch\":5},\"points\":{\"consistency\":\"consistent\",\"consistent_epoch\":4,"
		"\"in_between\":true,\"last_crash\":"
		"{\"name\":\"crash-4\",\"epoch\":4,\"time\":\"2024-01-01T00:00:00.000Z\"},\"last_app\":null}}");
	CLEANUP_FREE char *dropped = shown(status_target_points,
		"{\"epoch\":null,\"points\":{\"consistency\":\"consistent\",\"consistent_epoch\":4,\"in_between\":true}}");
	CLEANUP_FREE char *bad = shown(status_target_points,
		"{\"points\":{\"consistency\":\"not-consistent\",\"consistent_epoch\":4}}");
	CLEANUP_FREE char *syncing = shown(status_target_points, "{\"points\":{\"consistency\":\"syncing\"}}");

	(void)state;
	assert_string_equal(good, "    point        consistent as of epoch 4; the next one is being written\n"
				  "    tags         crash: crash-4 (epoch 4), 1 min 00 s ago; app: none yet\n");
	assert_non_null(strstr(dropped, "as of epoch 4; BUT A PART OF THE NEXT ONE IS ON THE DISKS"));
	assert_non_null(strstr(bad, "NOT CONSISTENT since epoch 4"));
	assert_non_null(strstr(syncing, "syncing: no consistent epoch since"));
}

static void target_with_recovery_points(void **state)
{
	CLEANUP_FREE char *many = shown(status_target_points,
		"{\"points\":{\"consistency\":\"syncing\",\"count\":12,\"oldest_ms\":1704060060000,\"newest_ms\":1704067257000,"
		"\"retention_bytes\":1610612736}}");
	CLEANUP_FREE char *none = shown(status_target_points,
		"{\"points\":{\"consistency\":\"syncing\",\"count\":0,\"oldest_ms\":0,\"newest_ms\":0,\"retention_bytes\":0}}");
	CLEANUP_FREE char *old = shown(status_target_points, "{\"points\":{\"consistency\":\"syncing\"}}");

	(void)state;
	assert_non_null(strstr(many,
		"    points       12, the oldest 2 h 00 min old, the newest 3.0 s; 1.5 GiB on the retention volume\n"));
	assert_non_null(strstr(none, "    points       none yet; 0 B on the retention volume\n"));
	assert_null(strstr(old, "    points"));
}

static void target_that_is_rolled_back(void **state)
{
	CLEANUP_FREE char *out = shown(status_target_points,
		"{\"host\":\"web\\u001b\",\"status\":\"rolled-back\",\"points\":{\"consistency\":\"consistent\",\"consistent_epoch\":4}}");

	(void)state;
	assert_non_null(strstr(out, "ROLLED BACK"));
	assert_non_null(strstr(out, "reprotect points rollback web? undo"));
	assert_null(strstr(out, "consistent as of epoch 4"));
}

static void holds_have_quantiles(void **state)
{
	struct blkcbt_holds holds = { 0 };

	(void)state;
	assert_int_equal(cbt_holds_quantile_ns(&holds, 500), 0);
	holds.bucket[10] = 98; /* 1 to 2 us */
	holds.bucket[12] = 1;
	holds.bucket[20] = 1;
	holds.max_ns = 1500000;
	assert_int_equal(cbt_holds_quantile_ns(&holds, 500), 2048);
	assert_int_equal(cbt_holds_quantile_ns(&holds, 980), 2048);
	assert_int_equal(cbt_holds_quantile_ns(&holds, 990), 8192);
	assert_int_equal(cbt_holds_quantile_ns(&holds, 1000), 1500000); /* no more than the longest */
	memset(&holds, 0, sizeof(holds));
	holds.bucket[31] = 1; /* open above */
	holds.max_ns = 5000000000;
	assert_int_equal(cbt_holds_quantile_ns(&holds, 500), 5000000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(consistent),
		cmocka_unit_test(fuzzy_says_why_and_what_to_do),
		cmocka_unit_test(of_an_older_agent_nothing_is_said),
		cmocka_unit_test(target),
		cmocka_unit_test(target_with_recovery_points),
		cmocka_unit_test(target_that_is_rolled_back),
		cmocka_unit_test(holds_have_quantiles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
