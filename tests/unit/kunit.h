/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * As much of KUnit as the suites in tests/kunit use, on top of cmocka (kunit.c).
 * Included by tests/kunit/harness.h, where there is no kernel.
 */
#ifndef REPROTECT_TESTS_KUNIT_H
#define REPROTECT_TESTS_KUNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* The kernel's code leans on C's conversions; its own warnings do not count these. */
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-compare"

#define KUNIT_PARAM_DESC_SIZE	128
#define GFP_KERNEL		0
#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

struct kunit {
	void *priv;
	const void *param_value;
	bool failed;
	struct native_memory *memory;
};

struct kunit_case {
	void (*run_case)(struct kunit *test);
	const char *name;
	const void *(*generate_params)(const void *prev, char *desc);
};

struct kunit_suite {
	const char name[256];
	int (*init)(struct kunit *test);
	void (*exit)(struct kunit *test);
	struct kunit_case *test_cases;
};

extern unsigned int blkcbt_test_page_fail;

static inline void harness_page_fail(bool fail)
{
	blkcbt_test_page_fail = fail;
}

void native_add(struct kunit_suite *suite);
void native_failed(struct kunit *test, bool stop, const char *file, int line,
		   const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void *kunit_kzalloc(struct kunit *test, size_t size, int gfp);

/* The program's main() runs every suite that its sources hand over here. */
#define kunit_test_suite(suite)							\
	static void __attribute__((constructor)) native_add_##suite(void)	\
	{									\
		native_add(&(suite));						\
	}									\
	struct kunit_suite

#define KUNIT_CASE(test_name)							\
	{ .run_case = test_name, .name = #test_name }
#define KUNIT_CASE_PARAM(test_name, gen_params)					\
	{ .run_case = test_name, .name = #test_name, .generate_params = gen_params }

#define KUNIT_ARRAY_PARAM(name, array, get_desc)				\
	static const void *name##_gen_params(const void *prev, char *desc)	\
	{									\
		__typeof__((array)[0]) *next = prev;				\
										\
		next = next ? next + 1 : (array);				\
		if (next == (array) + ARRAY_SIZE(array))			\
			return NULL;						\
		get_desc(next, desc);						\
		return next;							\
	}									\
	struct kunit_suite

#define native_binary(test, stop, left, op, right, fmt, ...)			\
do {										\
	__typeof__(left) l_ = (left);						\
	__typeof__(right) r_ = (right);						\
										\
	if (!(l_ op r_))							\
		native_failed(test, stop, __FILE__, __LINE__,			\
			      "expected %s " #op " %s, but %lld and %lld" fmt,	\
			      #left, #right, (long long)l_, (long long)r_,	\
			      ##__VA_ARGS__);					\
} while (0)

#define native_true(test, stop, what, condition, fmt, ...)			\
do {										\
	if (!(condition))							\
		native_failed(test, stop, __FILE__, __LINE__,			\
			      "expected %s" fmt, what, ##__VA_ARGS__);		\
} while (0)

#define KUNIT_FAIL(test, fmt, ...)						\
	native_failed(test, false, __FILE__, __LINE__, fmt, ##__VA_ARGS__)
#define KUNIT_EXPECT_TRUE(test, c)	native_true(test, false, #c, c, "")
#define KUNIT_EXPECT_FALSE(test, c)	native_true(test, false, "not " #c, !(c), "")
#define KUNIT_EXPECT_TRUE_MSG(test, c, fmt, ...)				\
	native_true(test, false, #c, c, ": " fmt, ##__VA_ARGS__)
#define KUNIT_EXPECT_FALSE_MSG(test, c, fmt, ...)				\
	native_true(test, false, "not " #c, !(c), ": " fmt, ##__VA_ARGS__)
#define KUNIT_EXPECT_NULL(test, p)	native_true(test, false, "no " #p, !(p), "")
#define KUNIT_ASSERT_NOT_NULL(test, p)	native_true(test, true, #p, (p) != NULL, "")
#define KUNIT_EXPECT_EQ(test, l, r)	native_binary(test, false, l, ==, r, "")
#define KUNIT_EXPECT_EQ_MSG(test, l, r, fmt, ...)				\
	native_binary(test, false, l, ==, r, ": " fmt, ##__VA_ARGS__)
#define KUNIT_ASSERT_EQ(test, l, r)	native_binary(test, true, l, ==, r, "")
#define KUNIT_ASSERT_EQ_MSG(test, l, r, fmt, ...)				\
	native_binary(test, true, l, ==, r, ": " fmt, ##__VA_ARGS__)
#define KUNIT_EXPECT_GE(test, l, r)	native_binary(test, false, l, >=, r, "")
#define KUNIT_ASSERT_LT(test, l, r)	native_binary(test, true, l, <, r, "")


#endif
