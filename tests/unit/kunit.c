// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs KUnit's suites under cmocka, as a program. A case is a cmocka test, and
 * so is each parameter of a case, by the name that scripts/kunit prints for it:
 * "suite: case" or "suite: case: parameter".
 */
#include "../kunit/harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

/* The fault point of kmod/pure.h. */
unsigned int blkcbt_test_page_fail;

/* Memory that lives as long as its test. */
struct native_memory {
	struct native_memory *next;
	max_align_t data[];
};

/* One test: a case, with one of its parameters if it has any. */
struct native_run {
	struct kunit_suite *suite;
	struct kunit_case *test_case;
	struct kunit test;
	char name[512];
};

static struct native_run *runs;
static size_t nr_runs;
static const char *program_name = "";

static void add_run(struct kunit_suite *suite, struct kunit_case *test_case,
		    const void *param, const char *desc)
{
	struct native_run *run;

	runs = realloc(runs, (nr_runs + 1) * sizeof(*runs));
	if (!runs)
		abort();
	run = &runs[nr_runs++];
	memset(run, 0, sizeof(*run));
	run->suite = suite;
	run->test_case = test_case;
	run->test.param_value = param;
	snprintf(run->name, sizeof(run->name), "%s: %s%s%s", suite->name, test_case->name,
		 desc[0] ? ": " : "", desc);
}

/* Called by the constructor that kunit_test_suite() makes: before main(). */
void native_add(struct kunit_suite *suite)
{
	char desc[KUNIT_PARAM_DESC_SIZE] = "";
	struct kunit_case *test_case;

	program_name = suite->name;
	for (test_case = suite->test_cases; test_case->run_case; test_case++) {
		const void *param = NULL;

		if (!test_case->generate_params) {
			add_run(suite, test_case, NULL, "");
			continue;
		}
		while ((param = test_case->generate_params(param, desc)))
			add_run(suite, test_case, param, desc);
	}
}

void native_failed(struct kunit *test, bool stop, const char *file, int line,
		   const char *fmt, ...)
{
	va_list args;

	test->failed = true;
	fprintf(stderr, "# %s:%d: ", file, line);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	if (stop)
		fail();
}

void *kunit_kzalloc(struct kunit *test, size_t size, int gfp)
{
	struct native_memory *memory = calloc(1, sizeof(*memory) + size);

	(void)gfp;
	if (!memory)
		return NULL;
	memory->next = test->memory;
	test->memory = memory;
	return memory->data;
}

static int set_up(void **state)
{
	struct native_run *run = *state;

	return run->suite->init ? run->suite->init(&run->test) : 0;
}

static void run_one(void **state)
{
	struct native_run *run = *state;

	run->test_case->run_case(&run->test);
	if (run->test.failed)
		fail();
}

static int tear_down(void **state)
{
	struct native_run *run = *state;

	if (run->suite->exit)
		run->suite->exit(&run->test);
	while (run->test.memory) {
		struct native_memory *memory = run->test.memory;

		run->test.memory = memory->next;
		free(memory);
	}
	return 0;
}

int main(void)
{
	struct CMUnitTest *tests = calloc(nr_runs + 1, sizeof(*tests));
	size_t i;
	int failed;

	if (!tests)
		abort();
	for (i = 0; i < nr_runs; i++) {
		tests[i].name = runs[i].name;
		tests[i].test_func = run_one;
		tests[i].setup_func = set_up;
		tests[i].teardown_func = tear_down;
		tests[i].initial_state = &runs[i];
	}
	failed = _cmocka_run_group_tests(program_name, tests, nr_runs, NULL, NULL);
	free(tests);
	free(runs);
	return failed ? 1 : 0;
}

