/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of what reprotect status says about early boot. */
/* LINK: userspace/cli/early.c userspace/cli/format.c userspace/cli/client.c */
#include "userspace/cli/cli.h"
#include "util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void assert_shown(const char *text, const char *want)
{
	CLEANUP_JSON json_t *json = json_loads(text, 0, NULL);
	CLEANUP_FREE char *out = NULL;
	size_t bytes;
	FILE *stream = open_memstream(&out, &bytes);

	assert_non_null(stream);
	status_early(json, stream);
	fclose(stream);
	assert_string_equal(out, want);
}

static void nothing(void **state)
{
	(void)state;
	assert_shown("{}", "  early boot    not in this boot; the initramfs has the list for the next one\n");
	assert_shown("[]", "");
}

static void whole(void **state)
{
	(void)state;
	assert_shown("{\"initramfs\":\"current\",\"report\":{\"finished\":true,\"disks\":["
		     "{\"name\":\"root\",\"attached\":true,\"attached_ms\":1900},"
		     "{\"name\":\"data\",\"attached\":true,\"attached_ms\":1950}]}}",
		     "  early boot    2 of 2 disks attached, 1.9 s after the kernel started\n");
}

static void part(void **state)
{
	(void)state;
	assert_shown("{\"initramfs\":\"stale\",\"remedy\":\"update-initramfs -u\",\"report\":{\"finished\":true,\"disks\":["
		     "{\"name\":\"root\",\"attached\":true,\"attached_ms\":1900},"
		     "{\"name\":\"data\",\"attached\":false,\"error\":{\"message\":\"disk data: cannot be \\u001bfound\","
		     "\"remedy\":\"plug it in\"}}]}}",
		     "  early boot    1 of 2 disks attached, 1.9 s after the kernel started\n"
		     "    disk data: cannot be ?found\n"
		     "    to do: plug it in\n"
		     "  early boot    the initramfs is older than the list of disks (run: update-initramfs -u)\n");
}

static void failed(void **state)
{
	(void)state;
	assert_shown("{\"initramfs\":\"current\",\"report\":{\"finished\":false,\"disks\":[],"
		     "\"error\":{\"message\":\"it hung\",\"remedy\":\"\"}}}",
		     "  early boot    no disk was attached\n"
		     "    it hung\n");
	assert_shown("{\"initramfs\":\"current\",\"report\":{\"finished\":true,\"disks\":[]}}",
		     "  early boot    no disk was to be attached\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing),
		cmocka_unit_test(whole),
		cmocka_unit_test(part),
		cmocka_unit_test(failed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
