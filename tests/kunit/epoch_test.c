// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The epoch transaction (kmod/epoch.c): every state, every step, every kind of
 * number, written down here a second time, and random walks against a model.
 */
#include "../../kmod/epoch.h"
#include "harness.h"

#define NONE	BLKCBT_EPOCH_NONE
#define OPEN	BLKCBT_EPOCH_OPEN

static void expect_epoch(struct kunit *test, const struct blkcbt_epoch *epoch,
			 enum blkcbt_epoch_state state, u64 last, u64 committed)
{
	KUNIT_EXPECT_EQ(test, epoch->state, state);
	KUNIT_EXPECT_EQ(test, epoch->last, last);
	KUNIT_EXPECT_EQ(test, epoch->committed, committed);
}

/* What check says, step does; an error changes nothing. */
static void expect_step(struct kunit *test, struct blkcbt_epoch *epoch,
			enum blkcbt_epoch_step step, u64 number, int error)
{
	struct blkcbt_epoch before = *epoch;

	KUNIT_EXPECT_EQ(test, blkcbt_epoch_check(epoch, step, number), error);
	expect_epoch(test, epoch, before.state, before.last, before.committed);
	KUNIT_EXPECT_EQ(test, blkcbt_epoch_step(epoch, step, number), error);
	if (error)
		expect_epoch(test, epoch, before.state, before.last, before.committed);
}

/* Where a disk may be, and what follows; last is 7, or 0 where nothing was ever cut. */
struct transition {
	const char *name;
	struct blkcbt_epoch from;
	enum blkcbt_epoch_step step;
	u64 number;
	int error;
	struct blkcbt_epoch to;		/* unless error */
};

#define NEW		{ NONE, 0, 0 }
#define CLOSED		{ NONE, 7, 5 }
#define OPENED		{ OPEN, 7, 5 }
#define GREATEST		(~0ULL)

static const struct transition transitions[] = {
	/* nothing ever cut */
	{ "new, cut 0", NEW, BLKCBT_STEP_CUT, 0, -EINVAL, {} },
	{ "new, cut 1", NEW, BLKCBT_STEP_CUT, 1, 0, { OPEN, 1, 0 } },
	{ "new, cut the greatest", NEW, BLKCBT_STEP_CUT, GREATEST, 0, { OPEN, GREATEST, 0 } },
	{ "new, commit 0", NEW, BLKCBT_STEP_COMMIT, 0, -ESRCH, {} },
	{ "new, commit 1", NEW, BLKCBT_STEP_COMMIT, 1, -ESRCH, {} },
	{ "new, abort 0", NEW, BLKCBT_STEP_ABORT, 0, -ESRCH, {} },
	{ "new, abort 1", NEW, BLKCBT_STEP_ABORT, 1, -ESRCH, {} },
	{ "new, detach", NEW, BLKCBT_STEP_DETACH, 0, 0, NEW },
	{ "new, detach by force", NEW, BLKCBT_STEP_DETACH_FORCE, 0, 0, NEW },
	/* no epoch open */
	{ "none, cut 0", CLOSED, BLKCBT_STEP_CUT, 0, -EINVAL, {} },
	{ "none, cut before the last", CLOSED, BLKCBT_STEP_CUT, 6, -EINVAL, {} },
	{ "none, cut the last again", CLOSED, BLKCBT_STEP_CUT, 7, -EINVAL, {} },
	{ "none, cut the next", CLOSED, BLKCBT_STEP_CUT, 8, 0, { OPEN, 8, 5 } },
	{ "none, cut with a gap", CLOSED, BLKCBT_STEP_CUT, 100, 0, { OPEN, 100, 5 } },
	{ "none, commit before the last", CLOSED, BLKCBT_STEP_COMMIT, 6, -ESRCH, {} },
	{ "none, commit the last", CLOSED, BLKCBT_STEP_COMMIT, 7, -ESRCH, {} },
	{ "none, commit the next", CLOSED, BLKCBT_STEP_COMMIT, 8, -ESRCH, {} },
	{ "none, abort before the last", CLOSED, BLKCBT_STEP_ABORT, 6, -ESRCH, {} },
	{ "none, abort the last", CLOSED, BLKCBT_STEP_ABORT, 7, -ESRCH, {} },
	{ "none, abort the next", CLOSED, BLKCBT_STEP_ABORT, 8, -ESRCH, {} },
	{ "none, detach", CLOSED, BLKCBT_STEP_DETACH, 0, 0, CLOSED },
	{ "none, detach by force", CLOSED, BLKCBT_STEP_DETACH_FORCE, 0, 0, CLOSED },
	/* an epoch is open */
	{ "open, cut before it", OPENED, BLKCBT_STEP_CUT, 6, -EBUSY, {} },
	{ "open, cut it again", OPENED, BLKCBT_STEP_CUT, 7, -EBUSY, {} },
	{ "open, cut the next", OPENED, BLKCBT_STEP_CUT, 8, -EBUSY, {} },
	{ "open, commit 0", OPENED, BLKCBT_STEP_COMMIT, 0, -ESRCH, {} },
	{ "open, commit one before", OPENED, BLKCBT_STEP_COMMIT, 6, -ESRCH, {} },
	{ "open, commit it", OPENED, BLKCBT_STEP_COMMIT, 7, 0, { NONE, 7, 7 } },
	{ "open, commit one behind", OPENED, BLKCBT_STEP_COMMIT, 8, -ESRCH, {} },
	{ "open, commit the greatest", OPENED, BLKCBT_STEP_COMMIT, GREATEST, -ESRCH, {} },
	{ "open, abort 0", OPENED, BLKCBT_STEP_ABORT, 0, -ESRCH, {} },
	{ "open, abort one before", OPENED, BLKCBT_STEP_ABORT, 6, -ESRCH, {} },
	{ "open, abort it", OPENED, BLKCBT_STEP_ABORT, 7, 0, CLOSED },
	{ "open, abort one behind", OPENED, BLKCBT_STEP_ABORT, 8, -ESRCH, {} },
	{ "open, detach", OPENED, BLKCBT_STEP_DETACH, 7, -EBUSY, {} },
	{ "open, detach by force", OPENED, BLKCBT_STEP_DETACH_FORCE, 0, 0, CLOSED },
};

static void transition_desc(const struct transition *transition, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s", transition->name);
}

KUNIT_ARRAY_PARAM(transition, transitions, transition_desc);

static void transition(struct kunit *test)
{
	const struct transition *t = test->param_value;
	struct blkcbt_epoch epoch = t->from;

	expect_step(test, &epoch, t->step, t->number, t->error);
	if (!t->error)
		expect_epoch(test, &epoch, t->to.state, t->to.last, t->to.committed);
}

/* The table above names every state with every step. */
static void table_is_complete(struct kunit *test)
{
	unsigned int seen[2][BLKCBT_NR_STEPS] = { 0 };
	size_t i, step;

	for (i = 0; i < ARRAY_SIZE(transitions); i++)
		seen[transitions[i].from.state == OPEN][transitions[i].step]++;
	for (step = 0; step < BLKCBT_NR_STEPS; step++) {
		KUNIT_EXPECT_GE(test, seen[0][step], 1);
		KUNIT_EXPECT_GE(test, seen[1][step], 1);
	}
}

/* Detach does not look at the number. */
static void detach_takes_any_number(struct kunit *test)
{
	static const u64 numbers[] = { 0, 6, 7, 8, GREATEST };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct blkcbt_epoch closed = CLOSED, opened = OPENED;

		expect_step(test, &closed, BLKCBT_STEP_DETACH, numbers[i], 0);
		expect_step(test, &closed, BLKCBT_STEP_DETACH_FORCE, numbers[i], 0);
		expect_step(test, &opened, BLKCBT_STEP_DETACH, numbers[i], -EBUSY);
		expect_step(test, &opened, BLKCBT_STEP_DETACH_FORCE, numbers[i], 0);
		expect_epoch(test, &opened, NONE, 7, 5);
	}
}

/* One disk's life, step by step. */
static void life(struct kunit *test)
{
	struct blkcbt_epoch epoch = { 0 };

	expect_epoch(test, &epoch, NONE, 0, 0);
	expect_step(test, &epoch, BLKCBT_STEP_CUT, 7, 0);
	expect_epoch(test, &epoch, OPEN, 7, 0);
	expect_step(test, &epoch, BLKCBT_STEP_CUT, 8, -EBUSY);
	expect_step(test, &epoch, BLKCBT_STEP_DETACH, 0, -EBUSY);
	expect_step(test, &epoch, BLKCBT_STEP_ABORT, 7, 0);
	expect_epoch(test, &epoch, NONE, 7, 0);
	/* an aborted number is used up; so is aborting and committing it */
	expect_step(test, &epoch, BLKCBT_STEP_ABORT, 7, -ESRCH);
	expect_step(test, &epoch, BLKCBT_STEP_COMMIT, 7, -ESRCH);
	expect_step(test, &epoch, BLKCBT_STEP_CUT, 7, -EINVAL);
	expect_step(test, &epoch, BLKCBT_STEP_CUT, 8, 0);
	expect_step(test, &epoch, BLKCBT_STEP_COMMIT, 8, 0);
	expect_epoch(test, &epoch, NONE, 8, 8);
	expect_step(test, &epoch, BLKCBT_STEP_COMMIT, 8, -ESRCH);
	expect_step(test, &epoch, BLKCBT_STEP_CUT, 9, 0);
	expect_step(test, &epoch, BLKCBT_STEP_ABORT, 9, 0);
	expect_epoch(test, &epoch, NONE, 9, 8);
	expect_step(test, &epoch, BLKCBT_STEP_DETACH, 0, 0);
}

/* Numbers do not wrap: behind the greatest there is none. */
static void greatest_number(struct kunit *test)
{
	struct blkcbt_epoch epoch = { 0 };
	static const u64 numbers[] = { 0, 1, GREATEST - 1, GREATEST };
	size_t i;

	expect_step(test, &epoch, BLKCBT_STEP_CUT, GREATEST - 1, 0);
	expect_step(test, &epoch, BLKCBT_STEP_COMMIT, GREATEST - 1, 0);
	expect_step(test, &epoch, BLKCBT_STEP_CUT, GREATEST, 0);
	expect_step(test, &epoch, BLKCBT_STEP_COMMIT, GREATEST - 1, -ESRCH);
	expect_step(test, &epoch, BLKCBT_STEP_COMMIT, GREATEST, 0);
	expect_epoch(test, &epoch, NONE, GREATEST, GREATEST);
	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		expect_step(test, &epoch, BLKCBT_STEP_CUT, numbers[i], -EINVAL);
}

/* Random walks against the promises in words: at most one open, numbers grow, commit names it. */
static void random_walk(struct kunit *test)
{
	struct harness_rnd rnd = { .seed = 3 };
	u64 open = 0, last = 0, committed = 0;
	struct blkcbt_epoch epoch = { 0 };
	int i, error;

	for (i = 0; i < 20000; i++) {
		enum blkcbt_epoch_step step = (enum blkcbt_epoch_step)harness_rnd(&rnd, 5);
		u64 number = last + harness_rnd(&rnd, 4);

		number = number ? number - 1 : 0;
		error = 0;
		if (step == BLKCBT_STEP_CUT)
			error = open ? -EBUSY : number <= last ? -EINVAL : 0;
		else if (step == BLKCBT_STEP_COMMIT || step == BLKCBT_STEP_ABORT)
			error = open && open == number ? 0 : -ESRCH;
		else if (step == BLKCBT_STEP_DETACH)
			error = open ? -EBUSY : 0;
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_epoch_step(&epoch, step, number), error,
				    "step %d of %llu in walk's %d", step, number, i);
		if (error)
			continue;
		if (step == BLKCBT_STEP_COMMIT)
			committed = open;
		open = step == BLKCBT_STEP_CUT ? number : 0;
		if (open)
			last = open;
		KUNIT_ASSERT_EQ(test, epoch.state, open ? OPEN : NONE);
		KUNIT_ASSERT_EQ(test, epoch.last, last);
		KUNIT_ASSERT_EQ(test, epoch.committed, committed);
	}
	KUNIT_EXPECT_GE(test, last, 1000);
}

static struct kunit_case epoch_cases[] = {
	KUNIT_CASE_PARAM(transition, transition_gen_params),
	KUNIT_CASE(table_is_complete),
	KUNIT_CASE(detach_takes_any_number),
	KUNIT_CASE(life),
	KUNIT_CASE(greatest_number),
	KUNIT_CASE(random_walk),
	{}
};

static struct kunit_suite epoch_suite = {
	.name = "epoch",
	.test_cases = epoch_cases,
};

kunit_test_suite(epoch_suite);
