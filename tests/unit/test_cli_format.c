/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of the numbers that the command line prints, and of the mountinfo reader. */
/* LINK: userspace/cli/format.c userspace/agent/mounts.c */
#include "userspace/agent/mounts.h"
#include "userspace/cli/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

static void durations(void **state)
{
	char out[64];

	(void)state;
	assert_string_equal(format_duration(0, out, sizeof(out)), "0 s");
	assert_string_equal(format_duration(4250, out, sizeof(out)), "4.2 s");
	assert_string_equal(format_duration(61000, out, sizeof(out)), "1 min 01 s");
	assert_string_equal(format_duration(3 * 3600000 + 300000, out, sizeof(out)), "3 h 05 min");
	assert_string_equal(format_duration(50ull * 3600000, out, sizeof(out)), "2 d 2 h");
}

static void bars(void **state)
{
	char out[64];

	(void)state;
	assert_string_equal(format_bar(0, 100, 10, out, sizeof(out)), "[----------]   0 %");
	assert_string_equal(format_bar(50, 100, 10, out, sizeof(out)), "[#####-----]  50 %");
	assert_string_equal(format_bar(100, 100, 10, out, sizeof(out)), "[##########] 100 %");
	assert_string_equal(format_bar(0, 0, 10, out, sizeof(out)), "[##########] 100 %");
	assert_string_equal(format_bar(UINT64_MAX - 1, UINT64_MAX, 10, out, sizeof(out)), "[#########-]  99 %");
	assert_string_equal(format_bar(7, 5, 10, out, sizeof(out)), "[##########] 100 %");
	assert_string_equal(format_bar(1, 2, 60, out, 16), "50 %");
}

static void terminal_is_safe(void **state)
{
	char out[16];

	(void)state;
	assert_string_equal(format_clean("a\033[2Jb\n", out, sizeof(out)), "a?[2Jb?");
	assert_string_equal(format_clean("0123456789abcdefgh", out, sizeof(out)), "0123456789abcde");
}

static void mountinfo(void **state)
{
	struct mount_entry e;

	(void)state;
	assert_int_equal(mounts_parse("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n", &e), 0);
	assert_string_equal(e.point, "/mnt 2");
	assert_string_equal(e.type, "ext3");
	assert_string_equal(e.source, "/dev/root");
	assert_true(e.dev == makedev(98, 0));
	assert_true(e.writable);
	/* read-only mount of a writable filesystem, no optional fields */
	assert_int_equal(mounts_parse("1 2 8:1 / /x ro - xfs /dev/sda1 rw,attr2", &e), 0);
	assert_true(e.writable);
	assert_int_equal(mounts_parse("1 2 8:1 / /x ro shared:3 master:4 - xfs /dev/sda1 ro,attr2", &e), 0);
	assert_false(e.writable);
	assert_int_equal(mounts_parse("1 2 0:22 / /b rw - btrfs /dev/sda2 rw,errors=remount-ro", &e), 0);
	assert_true(e.writable);
	assert_int_not_equal(mounts_parse("", &e), 0);
	assert_int_not_equal(mounts_parse("1 2 8:1 / /x rw", &e), 0);
	assert_int_not_equal(mounts_parse("1 2 junk / /x rw - xfs /dev/sda1 rw", &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(durations),
		cmocka_unit_test(bars),
		cmocka_unit_test(terminal_is_safe),
		cmocka_unit_test(mountinfo),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
