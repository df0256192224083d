// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The lock of a daemon's directory: a running owner is refused to at once and named, the I/O of one
 * that has ended is waited for, and a lock whose file is closed everywhere is free.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lock.h"
#include "util.h"

#define WAIT_MS 200u

struct files {
	char path[64];
	int fd, again; /* opened twice: two owners, as far as flock() goes */
};

static int setup(void **state)
{
	struct files *f = calloc(1, sizeof(*f));

	snprintf(f->path, sizeof(f->path), "/tmp/test_lock.XXXXXX");
	f->fd = mkstemp(f->path);
	f->again = open(f->path, O_RDWR | O_CLOEXEC);
	*state = f;
	return f->fd < 0 || f->again < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	struct files *f = *state;

	close(f->fd);
	if (f->again >= 0)
		close(f->again);
	unlink(f->path);
	free(f);
	return 0;
}

static void note_owner(int fd, pid_t owner)
{
	char text[16];
	int bytes = snprintf(text, sizeof(text), "%-10d\n", (int)owner);

	assert_int_equal(pwrite(fd, text, (size_t)bytes, 0), bytes);
}

/* The number of a process that has ended. */
static pid_t ended(void)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(0);
	assert_int_equal(waitpid(child, &status, 0), child);
	return child;
}

static void test_a_running_owner_is_named_at_once(void **state)
{
	struct files *f = *state;
	uint64_t start = util_now_ms();
	pid_t owner = 0;

	assert_int_equal(lock_take(f->fd, "test", 0, NULL), 0);
	note_owner(f->fd, getppid());
	assert_int_equal(lock_take(f->again, "test", 60000, &owner), -EWOULDBLOCK);
	assert_int_equal(owner, getppid());
	assert_true(util_now_ms() - start < 30000);
}

static void test_the_io_of_an_ended_owner_is_waited_for(void **state)
{
	struct files *f = *state;
	uint64_t start = util_now_ms();
	pid_t gone = ended(), owner = 0;

	assert_int_equal(lock_take(f->fd, "test", 0, NULL), 0);
	note_owner(f->fd, gone);
	assert_int_equal(lock_take(f->again, "test", WAIT_MS, &owner), -ETIMEDOUT);
	assert_int_equal(owner, gone);
	assert_true(util_now_ms() - start >= WAIT_MS);
}

/* In a new process id namespace the daemon has the number that it had before. */
static void test_ones_own_number_is_that_of_an_earlier_life(void **state)
{
	struct files *f = *state;

	assert_int_equal(lock_take(f->fd, "test", 0, NULL), 0);
	assert_int_equal(lock_take(f->again, "test", WAIT_MS, NULL), -ETIMEDOUT);
}

/* The child stands for the I/O: it has the file open when its owner is long gone. */
static void test_it_is_had_once_the_io_is_done(void **state)
{
	struct files *f = *state;
	int release[2], status;
	pid_t io;

	assert_int_equal(lock_take(f->fd, "test", 0, NULL), 0);
	note_owner(f->fd, ended());
	assert_int_equal(pipe(release), 0);
	io = fork();
	if (!io) {
		char byte;

		close(release[1]);
		close(f->again);
		_exit(read(release[0], &byte, 1) != 0);
	}
	close(release[0]);
	close(f->fd);
	f->fd = -1;
	assert_int_equal(lock_take(f->again, "test", WAIT_MS, NULL), -ETIMEDOUT);
	close(release[1]);
	assert_int_equal(lock_take(f->again, "test", 30000, NULL), 0);
	assert_int_equal(waitpid(io, &status, 0), io);
	assert_int_equal(status, 0);
}

static void test_an_owner_without_a_number_is_believed(void **state)
{
	struct files *f = *state;

	assert_int_equal(lock_take(f->fd, "test", 0, NULL), 0);
	assert_int_equal(ftruncate(f->fd, 0), 0);
	assert_int_equal(lock_take(f->again, "test", 60000, NULL), -EWOULDBLOCK);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_a_running_owner_is_named_at_once), T(test_the_io_of_an_ended_owner_is_waited_for),
		T(test_ones_own_number_is_that_of_an_earlier_life), T(test_it_is_had_once_the_io_is_done),
		T(test_an_owner_without_a_number_is_believed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
