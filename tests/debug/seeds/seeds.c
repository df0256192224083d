// SPDX-License-Identifier: GPL-2.0
/*
 * Faults on purpose, for tests/debug/seeded: one that each debug kernel must
 * report and the rig must then see. Module parameter "seed" chooses it:
 * leak, race, sleep, shift.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>

static char *seed = "";
module_param(seed, charp, 0400);
MODULE_PARM_DESC(seed, "leak, race, sleep or shift");

static unsigned long shared;
static struct task_struct *racers[2];
static DEFINE_SPINLOCK(lock);
static unsigned int distance = 32;
module_param(distance, uint, 0400);
MODULE_PARM_DESC(distance, "of the shift");

static noinline void leak(void)
{
	void *volatile lost = kmalloc(64, GFP_KERNEL);

	lost = NULL;
}

/* Two of them at a time: each adds to what the other reads. */
static int race(void *unused)
{
	while (!kthread_should_stop()) {
		unsigned int i;

		for (i = 0; i < 100000; i++) {
			shared++;
			barrier();
		}
		cond_resched();
	}
	return 0;
}

static noinline void sleep_in_atomic(void)
{
	spin_lock(&lock);
	msleep(20);
	spin_unlock(&lock);
}

static noinline void shift(void)
{
	pr_info("seeds: %d\n", 1 << distance);
}

static int __init seeds_init(void)
{
	unsigned int i;

	if (!strcmp(seed, "leak")) {
		for (i = 0; i < 10; i++)
			leak();
	} else if (!strcmp(seed, "sleep")) {
		sleep_in_atomic();
	} else if (!strcmp(seed, "shift")) {
		shift();
	} else if (!strcmp(seed, "race")) {
		for (i = 0; i < 2; i++) {
			struct task_struct *task = kthread_create(race, NULL, "seeds/%u", i);

			if (IS_ERR(task))
				break;
			racers[i] = task;
			kthread_bind(task, i % num_online_cpus());
			wake_up_process(task);
		}
	} else {
		return -EINVAL;
	}
	return 0;
}

static void __exit seeds_exit(void)
{
	unsigned int i;

	for (i = 0; i < 2; i++)
		if (racers[i])
			kthread_stop(racers[i]);
}

module_init(seeds_init);
module_exit(seeds_exit);
MODULE_DESCRIPTION("faults that debug kernels must report");
MODULE_LICENSE("GPL");
