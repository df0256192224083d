// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module's dirty map: the KUnit suite, compiled from the module's sources,
 * and what only user space can show: several threads that mark at a time, two
 * that want the same page at the same moment, no memory for the map itself.
 *
 * LINK: tests/unit/kunit.c
 */
#include <pthread.h>
#include <stdlib.h>
#include "../kunit/harness.h"

/* What a test wants done, instead of memory or while it is being had. */
static void *(*calloc_hook)(size_t n, size_t size);

static void *hooked_calloc(size_t n, size_t size)
{
	void *(*hook)(size_t, size_t) = calloc_hook;

	return hook ? hook(n, size) : calloc(n, size);
}

#define calloc hooked_calloc
#include "../../kmod/map.c"
#undef calloc
#include "../kunit/map_test.c"

static void *no_calloc(size_t n, size_t size)
{
	(void)n;
	(void)size;
	return NULL;
}

static void no_memory_for_map(struct kunit *test)
{
	calloc_hook = no_calloc;
	KUNIT_EXPECT_NULL(test, blkcbt_map_alloc(1));
	calloc_hook = NULL;
}

static struct blkcbt_map *raced_map;
static unsigned long *raced_page;

/* Another marks in the same region, while this one waits for memory. */
static void *late_calloc(size_t n, size_t size)
{
	calloc_hook = NULL;
	blkcbt_map_mark(raced_map, 3, 3);
	raced_page = raced_map->page[0];
	return calloc(n, size);
}

/* Two make the same page: one stays, the other is freed (LeakSanitizer looks), both granules count. */
static void same_page_at_once(struct kunit *test)
{
	raced_map = new_map(test, 2 * BITS);
	calloc_hook = late_calloc;
	blkcbt_map_mark(raced_map, 5, 5);
	KUNIT_EXPECT_NULL(test, calloc_hook);
	KUNIT_EXPECT_TRUE(test, raced_map->page[0] == raced_page);
	KUNIT_EXPECT_EQ(test, pages(raced_map), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(raced_map), 2);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(raced_map, 3, 3));
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(raced_map, 5, 5));
}

#define THREADS		4
#define SHARED_NR	(40 * BITS + 9)

struct marker {
	struct blkcbt_map *map;
	pthread_barrier_t *start;
	u64 first;
};

/* Each marks every THREADS-th granule: the same words, the same pages, at the same time. */
static void *marker(void *arg)
{
	struct marker *m = arg;
	u64 g;

	pthread_barrier_wait(m->start);
	for (g = m->first; g < SHARED_NR; g += THREADS)
		blkcbt_map_mark(m->map, g, g);
	return NULL;
}

static void many_threads(struct kunit *test)
{
	struct blkcbt_map *map = new_map(test, SHARED_NR), *src = new_map(test, SHARED_NR);
	pthread_t thread[THREADS];
	struct marker m[THREADS];
	pthread_barrier_t start;
	u64 i;

	/* an epoch is put back meanwhile: its pages move, or are merged */
	for (i = 0; i < SHARED_NR; i += THREADS)
		blkcbt_map_mark(src, i, i);
	KUNIT_ASSERT_EQ(test, pthread_barrier_init(&start, NULL, THREADS), 0);
	for (i = 1; i < THREADS; i++) {
		m[i] = (struct marker){ .map = map, .start = &start, .first = i };
		KUNIT_ASSERT_EQ(test, pthread_create(&thread[i], NULL, marker, &m[i]), 0);
	}
	pthread_barrier_wait(&start);
	blkcbt_map_put_back(map, src, 0, 0);
	for (i = 1; i < THREADS; i++)
		KUNIT_ASSERT_EQ(test, pthread_join(thread[i], NULL), 0);
	pthread_barrier_destroy(&start);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), SHARED_NR);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, 0, SHARED_NR - 1));
	KUNIT_EXPECT_EQ(test, pages(map), (long)map->nr_pages);
}

static struct kunit_case native_cases[] = {
	KUNIT_CASE(no_memory_for_map),
	KUNIT_CASE(same_page_at_once),
	KUNIT_CASE(many_threads),
	{}
};

static struct kunit_suite map_native_suite = {
	.name = "map, native",
	.init = map_test_init,
	.exit = map_test_exit,
	.test_cases = native_cases,
};
kunit_test_suite(map_native_suite);
