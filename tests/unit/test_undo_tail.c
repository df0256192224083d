/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the master target shares with the readers of its undo log: the tail page, which is always read whole, also by another process
 * and after a writer that died in the middle; and who reads which state, which ends with the reader.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "undo_file.h"
#include "undo_tail.h"
#include "undo_use.h"
#include "util.h"

#define PUBLICATIONS 200000u
#define READS 200000u
#define SEQUENCE_AT 8 /* in the file */
#define BOOT_AT 64

struct rig {
	char path[64];
	int dir;
};

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	strcpy(rig->path, "/tmp/test_undo_tail.XXXXXX");
	if (!mkdtemp(rig->path))
		return -1;
	rig->dir = open(rig->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = rig;
	return rig->dir < 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;
	char command[128];

	undo_file = &undo_file_real;
	close(rig->dir);
	snprintf(command, sizeof(command), "rm -rf %s", rig->path);
	free(rig);
	return system(command);
}

static struct undo_tail make_tail(uint64_t number)
{
	struct undo_tail tail = { .committed = number, .open = number + 1, .batches = number * 3 };

	for (unsigned i = 0; i < UNDO_UUID_BYTES; i++)
		tail.log[i] = (uint8_t)(number >> (i % 8));
	return tail;
}

static bool is_whole(const struct undo_tail *tail)
{
	struct undo_tail whole = make_tail(tail->committed);

	return tail->open == whole.open && tail->batches == whole.batches && !memcmp(tail->log, whole.log, sizeof(whole.log));
}

/* ---- tail ---------------------------------------------------------------------- */

static void test_tail_comes_back(void **state)
{
	struct rig *rig = *state;
	struct undo_tail_page *writer, *reader;
	struct undo_tail tail = make_tail(5), again;
	struct stat status;

	assert_int_equal(undo_tail_map(&reader, rig->dir, false), -ENOENT);
	assert_null(reader);
	assert_int_equal(undo_tail_map(&writer, rig->dir, true), 0);
	assert_int_equal(fstatat(rig->dir, "tail", &status, 0), 0);
	assert_int_equal(status.st_size, UNDO_BLOCK);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_int_equal(undo_tail_map(&reader, rig->dir, false), 0);
	undo_tail_publish(writer, &tail);
	assert_int_equal(undo_tail_read(reader, &again), 0);
	assert_true(again.committed == 5 && is_whole(&again));
	assert_false(undo_tail_moved(reader, &again));
	/* The same once more is a publication, too. */
	undo_tail_publish(writer, &tail);
	assert_true(undo_tail_moved(reader, &again));
	/* The writer is started again: who has the page mapped sees what it publishes. */
	undo_tail_unmap(writer);
	assert_int_equal(undo_tail_map(&writer, rig->dir, true), 0);
	assert_int_equal(undo_tail_read(reader, &again), 0);
	assert_true(is_whole(&again));
	tail = make_tail(6);
	undo_tail_publish(writer, &tail);
	assert_true(undo_tail_moved(reader, &again));
	assert_int_equal(undo_tail_read(reader, &again), 0);
	assert_true(again.committed == 6 && is_whole(&again));
	undo_tail_unmap(writer);
	undo_tail_unmap(reader);
	undo_tail_unmap(NULL);
}

static void test_a_tail_that_is_none(void **state)
{
	struct rig *rig = *state;
	static const off_t sizes[] = { 0, 100, UNDO_BLOCK, 2 * UNDO_BLOCK };
	struct undo_tail_page *page;

	for (unsigned i = 0; i < ARRAY_LENGTH(sizes); i++) {
		int fd = openat(rig->dir, "tail", O_RDWR | O_CREAT | O_TRUNC, 0600);
		struct undo_tail tail = make_tail(1), again;

		assert_int_equal(ftruncate(fd, sizes[i]), 0);
		assert_int_equal(undo_tail_map(&page, rig->dir, false), -ENODATA);
		assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
		undo_tail_publish(page, &tail);
		assert_int_equal(undo_tail_read(page, &again), 0);
		assert_true(is_whole(&again));
		undo_tail_unmap(page);
		close(fd);
	}
}

static int no_space(int fd, int mode, off_t offset, off_t bytes)
{
	(void)fd;
	(void)mode;
	(void)offset;
	(void)bytes;
	return -ENOSPC;
}

static void test_no_room_for_a_tail(void **state)
{
	struct rig *rig = *state;
	struct undo_file_ops ops = undo_file_real;
	struct undo_tail_page *page;

	ops.fallocate = no_space;
	undo_file = &ops;
	assert_int_equal(undo_tail_map(&page, rig->dir, true), -ENOSPC);
	assert_null(page);
	undo_file = &undo_file_real;
	assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
	undo_tail_unmap(page);
}

static void *publish_many(void *user)
{
	for (uint64_t i = 1; i <= PUBLICATIONS; i++) {
		struct undo_tail tail = make_tail(i);

		undo_tail_publish(user, &tail);
	}
	return NULL;
}

/* Each read is whole and none is older than the one before; @last: until that has come. */
static bool read_many(const struct undo_tail_page *page, uint64_t last)
{
	struct undo_tail before, tail;

	if (undo_tail_read(page, &tail))
		return false;
	for (unsigned i = 0; i < READS || tail.committed < last; i++) {
		before = tail;
		if (undo_tail_read(page, &tail) || !is_whole(&tail) || tail.generation < before.generation ||
		    tail.committed < before.committed || (tail.generation == before.generation) != (tail.committed == before.committed))
			return false;
	}
	return true;
}

static void test_threads_read_it_whole(void **state)
{
	struct rig *rig = *state;
	struct undo_tail_page *page;
	struct undo_tail tail = make_tail(0);
	pthread_t thread;

	assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
	undo_tail_publish(page, &tail);
	assert_int_equal(pthread_create(&thread, NULL, publish_many, page), 0);
	assert_true(read_many(page, PUBLICATIONS));
	assert_int_equal(pthread_join(thread, NULL), 0);
	undo_tail_unmap(page);
}

static void test_processes_read_it_whole(void **state)
{
	struct rig *rig = *state;
	struct undo_tail_page *page;
	struct undo_tail tail = make_tail(0);
	pid_t child;
	int status;

	assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
	undo_tail_publish(page, &tail);
	child = fork();
	if (!child) {
		struct undo_tail_page *own;

		_exit(undo_tail_map(&own, rig->dir, false) || !read_many(own, PUBLICATIONS));
	}
	publish_many(page);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	undo_tail_unmap(page);
}

static void test_a_writer_that_died_in_the_middle(void **state)
{
	struct rig *rig = *state;
	struct undo_tail_page *page, *reader;
	struct undo_tail tail = make_tail(3), before, again;
	int fd;
	uint64_t sequence;

	assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
	undo_tail_publish(page, &tail);
	assert_int_equal(undo_tail_map(&reader, rig->dir, false), 0);
	assert_int_equal(undo_tail_read(reader, &before), 0);
	fd = openat(rig->dir, "tail", O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, &sequence, 8, SEQUENCE_AT), 8);
	sequence++;
	assert_int_equal(pwrite(fd, &sequence, 8, SEQUENCE_AT), 8);
	close(fd);
	assert_true(undo_tail_moved(reader, &before));
	assert_int_equal(undo_tail_read(reader, &again), -EAGAIN);
	undo_tail_unmap(page);
	assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
	assert_int_equal(undo_tail_read(reader, &again), -EAGAIN);
	undo_tail_publish(page, &tail);
	assert_int_equal(undo_tail_read(reader, &again), 0);
	assert_true(is_whole(&again) && again.generation > before.generation);
	/* Who knows what it had published. */
	assert_int_equal(again.undone, before.undone + 1);
	undo_tail_unmap(page);
	undo_tail_unmap(reader);
}

/* After a power cut the page may be one of any time. */
static void test_what_another_boot_said_is_not_believed(void **state)
{
	struct rig *rig = *state;
	struct undo_tail_page *page, *reader;
	struct undo_tail tail = make_tail(3), before, again;
	static const off_t places[] = { BOOT_AT, BOOT_AT + 15 };
	CLEANUP_FD int fd = -1;

	assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
	assert_int_equal(undo_tail_map(&reader, rig->dir, false), 0);
	assert_int_equal(undo_tail_read(reader, &again), -EAGAIN);
	fd = openat(rig->dir, "tail", O_RDWR | O_CLOEXEC);
	for (unsigned i = 0; i < ARRAY_LENGTH(places); i++) {
		uint8_t byte;

		undo_tail_publish(page, &tail);
		assert_int_equal(undo_tail_read(reader, &before), 0);
		assert_int_equal(pread(fd, &byte, 1, places[i]), 1);
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, places[i]), 1);
		assert_int_equal(undo_tail_read(reader, &again), -EAGAIN);
		undo_tail_publish(page, &tail);
		assert_int_equal(undo_tail_read(reader, &again), 0);
		assert_true(is_whole(&again) && again.undone == before.undone + 1);
	}
	undo_tail_unmap(page);
	undo_tail_unmap(reader);
}

static void test_layers_given_up_are_counted(void **state)
{
	struct rig *rig = *state;
	static const struct {
		uint64_t committed, open, batches, undone;
	} steps[] = {
		{ 1, 0, 0, 1 }, /* the first in this boot */
		{ 1, 2, 0, 1 }, { 1, 2, 5, 1 },
		{ 2, 0, 0, 1 },			/* committed */
		{ 2, 3, 1, 1 }, { 3, 4, 0, 1 }, /* and the next one begun at once */
		{ 3, 0, 0, 2 },			/* undone */
		{ 3, 5, 0, 2 }, { 3, 6, 0, 3 }, /* and the next one begun at once */
		{ 6, 0, 0, 3 },
	};
	struct undo_tail_page *page;
	struct undo_tail again;

	assert_int_equal(undo_tail_map(&page, rig->dir, true), 0);
	for (unsigned i = 0; i < ARRAY_LENGTH(steps); i++) {
		struct undo_tail tail = { .committed = steps[i].committed, .open = steps[i].open, .batches = steps[i].batches,
					  .undone = 99, .generation = 99 };

		undo_tail_publish(page, &tail);
		assert_int_equal(undo_tail_read(page, &again), 0);
		assert_int_equal(again.undone, steps[i].undone);
	}
	undo_tail_unmap(page);
}

/* ---- use ----------------------------------------------------------------------- */

static bool exists(const struct rig *rig, const char *name)
{
	return !faccessat(rig->dir, name, F_OK, 0);
}

static void test_nobody_reads(void **state)
{
	struct rig *rig = *state;
	uint64_t id;
	int guard;

	assert_false(undo_use_oldest(rig->dir, &id));
	assert_false(undo_use_held(rig->dir, 1));
	undo_use_clean(rig->dir);
	guard = undo_use_guard(rig->dir);
	assert_true(guard >= 0);
	assert_false(undo_use_oldest(rig->dir, &id));
	close(guard);
	/* On a full volume nothing can be made, and points have to go. */
	assert_false(exists(rig, "use"));
	assert_int_equal(undo_use_prepare(rig->dir), 0);
	assert_int_equal(undo_use_prepare(rig->dir), 0);
	assert_true(exists(rig, "use"));
}

static void test_what_is_read_is_known_as_long_as_it_is(void **state)
{
	struct rig *rig = *state;
	int fd[3], guard;
	uint64_t id;

	fd[0] = undo_use_take(rig->dir, 17, &guard);
	assert_true(fd[0] >= 0);
	close(guard);
	fd[1] = undo_use_take(rig->dir, 9, &guard);
	close(guard);
	fd[2] = undo_use_take(rig->dir, 9, &guard);
	close(guard);
	assert_true(undo_use_held(rig->dir, 17) && undo_use_held(rig->dir, 9) && !undo_use_held(rig->dir, 1));
	for (unsigned i = 0; i < 2; i++) {
		assert_true(undo_use_oldest(rig->dir, &id));
		assert_int_equal(id, 9);
	}
	close(fd[1]);
	assert_true(undo_use_held(rig->dir, 9));
	close(fd[2]);
	assert_false(undo_use_held(rig->dir, 9));
	assert_true(undo_use_oldest(rig->dir, &id));
	assert_int_equal(id, 17);
	assert_true(exists(rig, "use/9"));
	undo_use_clean(rig->dir);
	assert_false(exists(rig, "use/9"));
	assert_true(exists(rig, "use/17"));
	close(fd[0]);
	assert_false(undo_use_oldest(rig->dir, &id));
}

static void test_a_killed_reader_reads_no_more(void **state)
{
	struct rig *rig = *state;
	int ready[2], status;
	char byte;
	pid_t child;

	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (!child) {
		int guard, fd = undo_use_take(rig->dir, 3, &guard);

		close(guard);
		if (fd < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_true(undo_use_held(rig->dir, 3));
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_false(undo_use_held(rig->dir, 3));
	close(ready[0]);
	close(ready[1]);
}

static void test_nothing_is_removed_while_a_reader_begins(void **state)
{
	struct rig *rig = *state;
	int guard, other, again, fd = undo_use_take(rig->dir, 3, &guard), second;

	assert_int_equal(undo_use_guard(rig->dir), -EWOULDBLOCK);
	/* Readers do not keep each other out. */
	second = undo_use_take(rig->dir, 4, &again);
	assert_true(second >= 0);
	close(again);
	assert_int_equal(undo_use_guard(rig->dir), -EWOULDBLOCK);
	close(guard);
	other = undo_use_guard(rig->dir);
	assert_true(other >= 0);
	assert_int_equal(undo_use_guard(rig->dir), -EWOULDBLOCK);
	close(other);
	close(fd);
	close(second);
}

struct taker {
	int dir, fd, guard;
	int began[2];
};

static void *take(void *user)
{
	struct taker *taker = user;

	if (write(taker->began[1], "x", 1) != 1)
		return NULL;
	taker->fd = undo_use_take(taker->dir, 3, &taker->guard);
	return NULL;
}

/* The file of a reader that comes meanwhile is not the one that is cleaned away: it makes its own afterwards. */
static void test_a_reader_waits_for_the_removal(void **state)
{
	struct rig *rig = *state;
	struct taker taker = { .dir = rig->dir };
	int guard = -1, fd = undo_use_take(rig->dir, 3, &guard);
	pthread_t thread;
	char byte;

	close(guard);
	close(fd);
	guard = undo_use_guard(rig->dir);
	assert_int_equal(pipe(taker.began), 0);
	assert_int_equal(pthread_create(&thread, NULL, take, &taker), 0);
	assert_int_equal(read(taker.began[0], &byte, 1), 1);
	for (unsigned i = 0; i < 1000; i++) {
		undo_use_clean(rig->dir);
		assert_false(undo_use_held(rig->dir, 3));
	}
	close(guard);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(taker.fd >= 0 && taker.guard >= 0);
	assert_true(undo_use_held(rig->dir, 3));
	close(taker.guard);
	close(taker.fd);
	close(taker.began[0]);
	close(taker.began[1]);
}

static void test_files_of_other_names_mean_nothing(void **state)
{
	struct rig *rig = *state;
	static const char *const names[] = { "use/007", "use/-1", "use/x", "use/99999999999999999999999", "use/1 " };
	int guard, fd = undo_use_take(rig->dir, 3, &guard);
	uint64_t id;

	close(guard);
	close(fd);
	for (unsigned i = 0; i < ARRAY_LENGTH(names); i++)
		close(openat(rig->dir, names[i], O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	assert_false(undo_use_oldest(rig->dir, &id));
	undo_use_clean(rig->dir);
	assert_false(exists(rig, "use/3"));
	for (unsigned i = 0; i < ARRAY_LENGTH(names); i++)
		assert_true(exists(rig, names[i]));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_tail_comes_back), T(test_a_tail_that_is_none), T(test_no_room_for_a_tail), T(test_threads_read_it_whole),
		T(test_processes_read_it_whole), T(test_a_writer_that_died_in_the_middle), T(test_layers_given_up_are_counted),
		T(test_what_another_boot_said_is_not_believed),
		T(test_nobody_reads), T(test_what_is_read_is_known_as_long_as_it_is), T(test_a_killed_reader_reads_no_more),
		T(test_nothing_is_removed_while_a_reader_begins), T(test_a_reader_waits_for_the_removal),
		T(test_files_of_other_names_mean_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
