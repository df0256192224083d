/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * writer_overlaps(): against the plain comparison of all ranges that are in flight, on two targets. Requests are started and
 * the loop is not run until all questions are answered.
 *
 * LINK: userspace/master-target/writer.c userspace/master-target/undo.c userspace/master-target/undo_log.c userspace/master-target/pool.c
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../random.h"
#include "userspace/master-target/writer.h"
#include "util.h"

#define SIZE (2048 * MIB) /* of the targets, sparse */
#define USED (64 * MIB)	 /* where the ranges lie */
#define WRITES 60u
#define QUESTIONS 20000u

static void on_progress(void *user) { (void)user; }
static void on_failed(void *user, const struct target *target, const char *action, uint64_t offset, uint64_t length, int error)
{
	(void)user, (void)target, (void)action, (void)offset, (void)length;
	fail_msg("a write failed: %s", strerror(-error));
}
static void on_wake(void *user) { (void)user; }

struct range {
	unsigned target;
	uint64_t from, to;
};

/* A multiple of 512: mostly short, some across the end of a MiB, some of many MiB. */
static struct range draw(uint64_t *random, uint64_t most)
{
	struct range range = { .target = next_random(random) % 2 };
	uint64_t length = next_random(random) % 4 ? 1 + next_random(random) % 64 : 1 + next_random(random) % (most / 512);

	range.from = next_random(random) % 3 ? next_random(random) % (USED / 512) :
					       (1 + next_random(random) % 63) * (MIB / 512) - next_random(random) % length;
	if (range.from + length > USED / 512)
		range.from = USED / 512 - length;
	range.to = (range.from + length) * 512;
	range.from *= 512;
	return range;
}

/* As the targets see them: whole sectors of 4 KiB on the second. */
static bool meet(const struct range *a, const struct range *b)
{
	uint64_t align = a->target ? 4096 : 512;

	return a->target == b->target && a->from / align < (b->to + align - 1) / align &&
	       b->from / align < (a->to + align - 1) / align;
}

static void test_overlaps(void **user)
{
	char path[] = "/tmp/test-writer.XXXXXX";
	struct target targets[2] = { { .id = 1, .align = 512 }, { .id = 2, .align = 4096 } };
	struct pool_client client = { .wake = on_wake };
	struct writer writer = { .client = &client, .progress = on_progress, .failed = on_failed };
	struct range ranges[WRITES];
	uint64_t random = RANDOM_SEED;
	sd_event *event;
	unsigned met = 0, count = 0;

	(void)user;
	assert_true(sd_event_new(&event) >= 0);
	assert_int_equal(io_engine_new(&writer.io, event, NULL, 64), 0);
	assert_int_equal(pool_new(&writer.pool, writer.io, 16 * MIB), 0);
	pool_join(writer.pool, &client);
	for (unsigned i = 0; i < 2; i++) {
		targets[i].fd = i ? dup(targets[0].fd) : mkstemp(path);
		assert_true(targets[i].fd >= 0);
		targets[i].bytes = targets[i].source_bytes = SIZE;
	}
	assert_int_equal(unlink(path), 0);
	assert_int_equal(ftruncate(targets[0].fd, SIZE), 0);
	for (unsigned i = 0; i < QUESTIONS; i++) {
		struct range range = draw(&random, 5 * MIB);
		bool meets = false;

		for (unsigned j = 0; j < count; j++)
			meets |= meet(&range, &ranges[j]);
		met += meets;
		assert_int_equal(writer_overlaps(&writer, &targets[range.target], range.from, range.to - range.from), meets);
		if (meets || count == WRITES)
			continue;
		assert_int_equal(writer_start(&writer, &targets[range.target],
					      &(struct wire_frame){ .type = WIRE_ZERO, .offset = range.from,
								    .length = range.to - range.from },
					      NULL),
				 0);
		ranges[count++] = range;
	}
	assert_int_equal(count, WRITES);
	/* More MiB than there are lists. */
	assert_false(writer_overlaps(&writer, &targets[1], USED, SIZE - USED));
	assert_int_equal(writer_start(&writer, &targets[1],
				      &(struct wire_frame){ .type = WIRE_ZERO, .offset = SIZE - 2 * MIB, .length = 4096 }, NULL), 0);
	assert_true(writer_overlaps(&writer, &targets[1], USED, SIZE - USED));
	assert_false(writer_overlaps(&writer, &targets[0], USED, SIZE - USED));
	assert_in_range(met, QUESTIONS / 10, QUESTIONS * 9 / 10);

	while (writer_in_flight(&writer))
		assert_true(sd_event_run(event, 100000) >= 0);
	/* Nothing is left of them. */
	for (unsigned i = 0; i < WRITES; i++)
		assert_false(writer_overlaps(&writer, &targets[ranges[i].target], ranges[i].from, ranges[i].to - ranges[i].from));
	for (unsigned i = 0; i < WRITER_PLACES; i++)
		assert_null(writer.places[i]);
	assert_null(writer.wide);
	pool_leave(&client);
	io_engine_free(writer.io);
	pool_free(writer.pool);
	for (unsigned i = 0; i < 2; i++)
		close(targets[i].fd);
	sd_event_unref(event);
}

static void test_pool_classes(void **user)
{
	struct pool_client client = { .wake = on_wake };
	struct pool *pool;
	void *buffers[POOL_CLASSES];

	(void)user;
	assert_int_equal(pool_class_for(1), POOL_TINY);
	assert_int_equal(pool_class_for(POOL_TINY_BYTES), POOL_TINY);
	assert_int_equal(pool_class_for(POOL_TINY_BYTES + 1), POOL_SMALL);
	assert_int_equal(pool_class_for(POOL_SMALL_BYTES + 1), POOL_LARGE);
	assert_int_equal(pool_new(&pool, NULL, 16 * MIB), 0);
	pool_join(pool, &client);
	for (unsigned i = 0; i < POOL_CLASSES; i++) {
		buffers[i] = pool_get(&client, (enum pool_class)i);
		assert_non_null(buffers[i]);
		assert_int_equal(pool_unused(pool, (enum pool_class)i), pool_slots(pool, (enum pool_class)i) - 1);
	}
	for (unsigned i = 0; i < POOL_CLASSES; i++) {
		pool_put(pool, &client, buffers[i]);
		assert_int_equal(pool_unused(pool, (enum pool_class)i), pool_slots(pool, (enum pool_class)i));
	}
	pool_leave(&client);
	pool_free(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_overlaps), cmocka_unit_test(test_pool_classes) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
