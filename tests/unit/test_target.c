/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who has a target: whoever opened it, until it is closed, and no longer. A worker of io_uring may keep the descriptor that it did I/O on
 * for a moment after the completion; a duplicate stands for it here.
 */
/* LINK: userspace/master-target/target.c userspace/master-target/target_identity.c userspace/master-target/target_use.c userspace/master-target/fault.c userspace/master-target/state.c userspace/master-target/tags.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "userspace/master-target/target.h"
#include "util.h"

#define BYTES (8u << 20)

static char dir[] = "/tmp/test_target.XXXXXX";

static void make(char path[64])
{
	CLEANUP_FD int fd = -1;

	snprintf(path, 64, "%s/image", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, BYTES), 0);
}

static int open_it(struct target *target, const char *path, struct fault *fault)
{
	const struct target_request request = { .machine = "vm", .disk = "root", .id = 1, .path = path, .source_bytes = BYTES,
						.overwrite = true, .state_dir = dir };

	return target_open(target, &request, fault);
}

static void is_ours_until_it_is_closed(const char *path, const char *why)
{
	struct target target, other;
	struct fault fault = { 0 };
	int worker;

	assert_int_equal(open_it(&target, path, &fault), 0);
	assert_int_equal(open_it(&other, path, &fault), -1);
	assert_non_null(strstr(fault.message, why));
	worker = dup(target.fd);
	target_close(&target);
	if (open_it(&target, path, &fault))
		fail_msg("%s", fault.message);
	close(worker);
	/* The worker's end is not the end of the second claim. */
	assert_int_equal(open_it(&other, path, &fault), -1);
	target_close(&target);
	assert_int_equal(target.fd, -1);
	target_close(&target);
}

static void test_file(void **state)
{
	char path[64];

	(void)state;
	make(path);
	is_ours_until_it_is_closed(path, "another process has locked it");
	unlink(path);
}

static void test_block_device(void **state)
{
	char path[64], command[128], device[64] = "";
	FILE *out;

	(void)state;
	make(path);
	snprintf(command, sizeof(command), "losetup --find --show %s 2>/dev/null", path);
	out = popen(command, "re");
	assert_non_null(out);
	if (!fgets(device, sizeof(device), out))
		device[0] = 0;
	pclose(out);
	device[strcspn(device, "\n")] = 0;
	if (!device[0]) {
		unlink(path);
		print_message("no loop device can be had here\n");
		skip();
	}
	is_ours_until_it_is_closed(device, "it is held by the kernel or by another program");
	snprintf(command, sizeof(command), "losetup --detach %s", device);
	assert_int_equal(system(command), 0);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_file), cmocka_unit_test(test_block_device) };
	int failed;

	assert_non_null(mkdtemp(dir));
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	return failed;
}
