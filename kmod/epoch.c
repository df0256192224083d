// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The epoch transaction of one disk, as a table.
 *
 *	state \ step	CUT n		COMMIT n	ABORT n		DETACH	DETACH_FORCE
 *	NONE		OPEN		-ESRCH		-ESRCH		NONE	NONE
 *	OPEN		-EBUSY		NONE		NONE		-EBUSY	NONE
 *
 * CUT wants n greater than every number before (-EINVAL); COMMIT and ABORT want
 * the number of the open epoch (-ESRCH). The caller (genl.c) checks every disk
 * of a group before it takes the step on any: all or none.
 */
#include "epoch.h"

static const struct {
	int error;
	enum blkcbt_epoch_state next;
} table[][BLKCBT_NR_STEPS] = {
	[BLKCBT_EPOCH_NONE] = {
		[BLKCBT_STEP_CUT]		= { 0, BLKCBT_EPOCH_OPEN },
		[BLKCBT_STEP_COMMIT]		= { -ESRCH, BLKCBT_EPOCH_NONE },
		[BLKCBT_STEP_ABORT]		= { -ESRCH, BLKCBT_EPOCH_NONE },
		[BLKCBT_STEP_DETACH]		= { 0, BLKCBT_EPOCH_NONE },
		[BLKCBT_STEP_DETACH_FORCE]	= { 0, BLKCBT_EPOCH_NONE },
	},
	[BLKCBT_EPOCH_OPEN] = {
		[BLKCBT_STEP_CUT]		= { -EBUSY, BLKCBT_EPOCH_OPEN },
		[BLKCBT_STEP_COMMIT]		= { 0, BLKCBT_EPOCH_NONE },
		[BLKCBT_STEP_ABORT]		= { 0, BLKCBT_EPOCH_NONE },
		[BLKCBT_STEP_DETACH]		= { -EBUSY, BLKCBT_EPOCH_OPEN },
		[BLKCBT_STEP_DETACH_FORCE]	= { 0, BLKCBT_EPOCH_NONE },
	},
};

/**
 * blkcbt_epoch_check() - may this step be taken?
 * @epoch: the disk's epoch
 * @step: the step
 * @number: the epoch that the step names; not looked at for DETACH
 *
 * Return: 0, -EBUSY an epoch is open, -ESRCH @number is not the open epoch,
 * -EINVAL @number is not greater than the epochs before.
 */
int blkcbt_epoch_check(const struct blkcbt_epoch *epoch, enum blkcbt_epoch_step step, u64 number)
{
	int error = table[epoch->state][step].error;

	if (error)
		return error;
	switch (step) {
	case BLKCBT_STEP_CUT:
		return number > epoch->last ? 0 : -EINVAL;
	case BLKCBT_STEP_COMMIT:
	case BLKCBT_STEP_ABORT:
		return number == epoch->last ? 0 : -ESRCH;
	default:
		return 0;
	}
}

/**
 * blkcbt_epoch_step() - take a step
 * @epoch: the disk's epoch; unchanged on error
 * @step: the step
 * @number: the epoch that the step names
 *
 * Return: as blkcbt_epoch_check().
 */
int blkcbt_epoch_step(struct blkcbt_epoch *epoch, enum blkcbt_epoch_step step, u64 number)
{
	int error = blkcbt_epoch_check(epoch, step, number);

	if (error)
		return error;
	epoch->state = table[epoch->state][step].next;
	if (step == BLKCBT_STEP_CUT)
		epoch->last = number;
	else if (step == BLKCBT_STEP_COMMIT)
		epoch->committed = number;
	return 0;
}
