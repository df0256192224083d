/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of what reprotect status says about a process server. */
/* LINK: userspace/cli/status_server.c userspace/cli/format.c userspace/cli/client.c */
#include "userspace/cli/cli.h"
#include "util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define NOW_MS 1000000u

static char *shown(const char *text)
{
	CLEANUP_JSON json_t *json = json_loads(text, 0, NULL);
	char *out = NULL;
	size_t bytes;
	FILE *stream = open_memstream(&out, &bytes);

	assert_non_null(stream);
	status_process_server(json, NOW_MS, stream);
	fclose(stream);
	return out;
}

#define HEAD \
	"\"listen\":\"127.0.0.1:9911\",\"version\":\"1\",\"master_target\":\"127.0.0.1:9921\",\"uptime_ms\":61000," \
	"\"rss_bytes\":2097152,\"spool\":{\"path\":\"/s\",\"used_bytes\":1048576,\"quota_bytes\":4194304," \
	"\"engine\":\"io_uring\",\"direct_io\":true}"

static void whole(void **state)
{
	CLEANUP_FREE char *out = shown("{" HEAD ",\"machines\":[{\"machine\":\"u-1\",\"host\":\"vm1\",\"agent\":\"held up\","
		"\"agent_address\":\"127.0.0.1:4\",\"master_target\":\"unreachable\",\"in_bytes_per_second\":1024,"
		"\"out_bytes_per_second\":0,\"last_complete\":12,\"last_applied\":11,\"epochs_in_spool\":1,\"open_epoch\":13,"
		"\"unapplied_bytes\":3145728,\"spool_bytes\":5242880,\"waits_for\":\"room\","
		"\"sending\":{\"epoch\":12,\"frame\":3,\"of\":44},\"target_progress\":{\"epoch\":12,\"frame\":2},"
		"\"last_error\":{\"time_ms\":940000,\"from\":\"master target\",\"code\":\"x\",\"message\":\"no route\","
		"\"remedy\":\"start it\"}}]}");

	(void)state;
	assert_string_equal(out,
		"process server  listening on 127.0.0.1:9911, 1 machine, version 1\n"
		"  spool         1 MiB of 4 MiB (25 %) in /s\n"
		"  target        127.0.0.1:9921\n"
		"  running       for 1 min 01 s, memory 2 MiB, io io_uring\n"
		"  machine vm1          uuid u-1\n"
		"    agent       held up from 127.0.0.1:4, 1 KiB/s\n"
		"    held up     waits for room\n"
		"    target      unreachable, 0 B/s\n"
		"    epochs      12 complete, 11 applied; 13 arriving; 12 going out, frame 3 of 44; "
		"target durable up to frame 2 of 12\n"
		"    spool       1 epoch, 3 MiB not applied yet, 5 MiB on disk\n"
		"    last error  1 min 00 s ago, master target: no route\n"
		"    to do: start it\n");
}

/* A machine that has not said hello since the start: neither epochs nor errors. */
static void known_only(void **state)
{
	CLEANUP_FREE char *out = shown("{" HEAD ",\"machines\":[{\"machine\":\"u-1\",\"host\":\"\",\"agent\":\"away\","
		"\"agent_address\":\"\",\"master_target\":\"idle\",\"last_error\":null}]}");

	(void)state;
	assert_non_null(strstr(out, "  machine u-1          uuid u-1\n"
				    "    agent       not connected, 0 B/s\n"
				    "    target      not needed now, 0 B/s\n"));
	assert_null(strstr(out, "epochs"));
	assert_null(strstr(out, "error"));
}

static void empty_and_hostile(void **state)
{
	CLEANUP_FREE char *none = shown("{}");
	CLEANUP_FREE char *out = shown("{" HEAD ",\"machines\":[3,{\"machine\":\"u\",\"host\":\"a\\u001b[2Jb\","
		"\"agent\":\"connected\",\"master_target\":\"connected\",\"last_error\":{\"time_ms\":2000000,"
		"\"message\":\"x\\ny\"}}]}");

	(void)state;
	assert_non_null(strstr(none, "0 machines"));
	assert_null(strchr(out, '\033'));
	assert_non_null(strstr(out, "machine a?[2Jb"));
	assert_non_null(strstr(out, "last error  0 s ago: x?y\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole),
		cmocka_unit_test(known_only),
		cmocka_unit_test(empty_and_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
