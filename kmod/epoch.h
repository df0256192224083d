/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The epoch transaction of one disk: cut, then commit or abort.
 *
 * Pure: compiled by the unit tests as well.
 */
#ifndef BLKCBT_EPOCH_H
#define BLKCBT_EPOCH_H

#include <linux/blkcbt.h>
#include "pure.h"

enum blkcbt_epoch_step {
	BLKCBT_STEP_CUT,
	BLKCBT_STEP_COMMIT,
	BLKCBT_STEP_ABORT,
	BLKCBT_STEP_DETACH,
	BLKCBT_STEP_DETACH_FORCE,
	BLKCBT_NR_STEPS
};

/**
 * struct blkcbt_epoch - where a disk is in its transaction
 * @state: the state
 * @last: number of the last epoch cut, 0 if none; the open one in state OPEN
 * @committed: number of the last epoch committed, 0 if none
 */
struct blkcbt_epoch {
	enum blkcbt_epoch_state state;
	u64 last;
	u64 committed;
};

int blkcbt_epoch_check(const struct blkcbt_epoch *epoch, enum blkcbt_epoch_step step, u64 number);
int blkcbt_epoch_step(struct blkcbt_epoch *epoch, enum blkcbt_epoch_step step, u64 number);

#endif /* BLKCBT_EPOCH_H */
