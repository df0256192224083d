// SPDX-License-Identifier: GPL-2.0
/*
 * Holding writers: what makes a cut the same instant on all of its disks.
 *
 * A hold sets a bit in each disk, at which the gate parks every write, and then
 * waits until nobody is in the gate who may not have seen it. That takes the
 * time of an interrupt to each processor, not of a grace period. What has passed
 * the gate before is not waited for: it was submitted before the cut, and is in
 * the epoch.
 *
 *	one call	hold, swap the maps, release; with preemption off
 *	two steps	HOLD, CUT within it on each machine of a group, RELEASE
 *
 * A hold of the second kind has an owner and a deadline: it ends when it is
 * released, when the deadline has passed, or when the owner's socket is closed.
 * The owner may itself have to write (to swap, say) before it gets to release:
 * then the deadline is what ends it. A cut after that is refused, so
 * that no point is offered that is none.
 *
 *	hold		HOLD		CUT in it	RELEASE, deadline, owner gone
 *	none		in force	-ETIMEDOUT	(-ETIMEDOUT)
 *	in force	-EBUSY		cut		none
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/smp.h>
#include <linux/workqueue.h>
#include "disk.h"

/*
 * Tasks of a processor that are in the gate, of a tracked disk. Counted there
 * with preemption off; interrupts that come in between leave it as it was. Not
 * used on a real-time kernel, where the gate can be preempted.
 */
DEFINE_PER_CPU(unsigned int, blkcbt_in_gate);

/* How long holds have lasted. */
static struct blkcbt_holds holds;
/* Protects holds. */
static DEFINE_SPINLOCK(holds_lock);

/*
 * The hold of the second kind; there is one at a time. Begun under
 * blkcbt_ctl_mutex, ended in any task.
 */
static struct {
	spinlock_t lock; /* all of it */
	u64 id;		/* 0: none in force */
	u64 last_id;
	u32 owner;	/* port of its netlink socket */
	u64 from_ns;
	unsigned int n;
	struct blkcbt_group_item *items; /* a reference of each disk is held */
} hold = { .lock = __SPIN_LOCK_UNLOCKED(hold.lock) };

static void note_hold(u64 ns)
{
	unsigned int bucket = ns ? min_t(unsigned int, ilog2(ns), ARRAY_SIZE(holds.bucket) - 1) : 0;

	spin_lock_bh(&holds_lock);
	holds.count++;
	holds.total_ns += ns;
	holds.max_ns = max(holds.max_ns, ns);
	holds.bucket[bucket]++;
	spin_unlock_bh(&holds_lock);
}

/**
 * blkcbt_holds_get() - how long holds have lasted
 * @to: filled in
 */
void blkcbt_holds_get(struct blkcbt_holds *to)
{
	spin_lock_bh(&holds_lock);
	*to = holds;
	spin_unlock_bh(&holds_lock);
}

#ifndef CONFIG_PREEMPT_RT
static void nothing(void *unused)
{
}
#endif

/*
 * The bits are set: wait until nobody is in the gate who does not know.
 *
 * The interrupt orders: whoever had counted itself before it is seen in
 * blkcbt_in_gate; whoever counts itself after it sees the bits.
 */
static void wait_for_gate(void)
{
#ifdef CONFIG_PREEMPT_RT
	synchronize_rcu_expedited();
#else
	unsigned int cpu;

	on_each_cpu(nothing, NULL, 1);
	for_each_possible_cpu(cpu)
		while (READ_ONCE(*per_cpu_ptr(&blkcbt_in_gate, cpu)))
			cpu_relax();
	/* What they have marked is seen before anything is swapped. */
	smp_mb();
#endif
}

static void set_bits(struct blkcbt_group_item *items, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		set_bit(BLKCBT_SLOW_HOLD, &items[i].disk->slow);
	/* The bits are there before anybody is asked whether he is in the gate. */
	smp_mb();
}

static void clear_bits(struct blkcbt_group_item *items, unsigned int n)
{
	unsigned int i;

	/* What was swapped is seen by whoever is not held any more. */
	smp_mb();
	for (i = 0; i < n; i++)
		clear_bit(BLKCBT_SLOW_HOLD, &items[i].disk->slow);
}

/* A hold for one cut. */
static void swap_held(struct blkcbt_group_item *items, unsigned int n, struct blkcbt_cut *cut,
		      blkcbt_swap_fn *at_once)
{
	unsigned int late = blkcbt_fault_cut_late();
	unsigned int i;
	u64 from_ns;

	/* Whoever holds must not be kept from releasing. */
	if (!IS_ENABLED(CONFIG_PREEMPT_RT))
		preempt_disable();
	from_ns = ktime_get_ns();
	set_bits(items, n);
	wait_for_gate();
	at_once(items, late ? 1 : n, cut);
	clear_bits(items, n);
	cut->hold_ns = ktime_get_ns() - from_ns;
	if (!IS_ENABLED(CONFIG_PREEMPT_RT))
		preempt_enable();
	for (i = 1; late && i < n; i++) {
		mdelay(late);
		at_once(items + i, 1, cut);
	}
	for (i = 0; i < n; i++)
		blkcbt_park_kick(items[i].disk);
	note_hold(cut->hold_ns);
}

static bool in_hold(const struct blkcbt_disk *d)
{
	unsigned int i;

	for (i = 0; i < hold.n; i++)
		if (hold.items[i].disk == d)
			return true;
	return false;
}

/**
 * blkcbt_hold_swap() - swap maps while writers are held
 * @items: the disks
 * @n: how many
 * @cut: the cut; @hold_ns is set
 * @at_once: does it; must not sleep
 * @why: set to a text on error
 *
 * Without a gate there is nobody to be held: what is swapped is swapped disk by
 * disk.
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 * Return: 0; -EBUSY a hold is in force; -ETIMEDOUT, -EINVAL: see BLKCBT_CMD_CUT.
 */
int blkcbt_hold_swap(struct blkcbt_group_item *items, unsigned int n, struct blkcbt_cut *cut,
		     blkcbt_swap_fn *at_once, char *why)
{
	unsigned int i;
	int err = 0;

	cut->hold_ns = 0;
	spin_lock_bh(&hold.lock);
	if (!cut->hold_id) {
		for (i = 0; i < n && !err; i++)
			err = hold.id && in_hold(items[i].disk) ? -EBUSY : 0;
		if (err)
			why_err(why, "disk %s: cannot cut: a hold is in force (cut within it, or wait for its deadline)",
				items[i - 1].disk->gd->disk_name);
		/* None can begin: that needs blkcbt_ctl_mutex. */
		spin_unlock_bh(&hold.lock);
		if (!err && (blkcbt_observers() & BLKCBT_OBSERVER_GATE))
			swap_held(items, n, cut, at_once);
		else if (!err)
			at_once(items, n, cut);
		return err;
	}
	if (hold.id != cut->hold_id) {
		err = -ETIMEDOUT;
		why_err(why, "cannot cut: the hold is over (its deadline has passed, or its owner is gone; hold again)");
	} else {
		for (i = 0; i < n && !err; i++)
			err = n != hold.n || !in_hold(items[i].disk) ? -EINVAL : 0;
		if (err)
			why_err(why, "cannot cut: these are not the disks of the hold (name the same)");
		else
			at_once(items, n, cut);
	}
	spin_unlock_bh(&hold.lock);
	return err;
}

/* End the hold @id, or with 0 that of @owner. */
static int hold_end(u64 id, u32 owner)
{
	struct blkcbt_group_item *items;
	unsigned int i, n;
	u64 ns;

	spin_lock_bh(&hold.lock);
	if (!hold.id || (id ? hold.id != id : hold.owner != owner)) {
		spin_unlock_bh(&hold.lock);
		return -ETIMEDOUT;
	}
	items = hold.items;
	n = hold.n;
	hold.items = NULL;
	hold.n = 0;
	hold.id = 0;
	clear_bits(items, n);
	ns = ktime_get_ns() - hold.from_ns;
	spin_unlock_bh(&hold.lock);

	for (i = 0; i < n; i++) {
		blkcbt_park_kick(items[i].disk);
		percpu_ref_put(&items[i].disk->ref);
	}
	kvfree(items);
	note_hold(ns);
	return 0;
}

static void deadline_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(deadline, deadline_work);
static u64 deadline_id; /* changed while @deadline is not queued */

static void deadline_work(struct work_struct *work)
{
	if (!hold_end(deadline_id, 0))
		pr_warn("a hold ended by its deadline: writers go on, the point is not offered\n");
}

/**
 * blkcbt_hold_take() - writers to these disks wait from now on
 * @items: the disks
 * @n: how many
 * @deadline_ms: for how long at most
 * @owner: whose hold it is
 * @id: set to its number
 * @why: set to a text on error
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 * Return: 0 or an error as documented for BLKCBT_CMD_HOLD.
 */
int blkcbt_hold_take(struct blkcbt_group_item *items, unsigned int n, unsigned int deadline_ms,
		     u32 owner, u64 *id, char *why)
{
	struct blkcbt_group_item *held;
	unsigned int i;
	bool busy;

	if (!(blkcbt_observers() & BLKCBT_OBSERVER_GATE)) {
		why_err(why, "cannot hold: there is no gate (INFO says why)");
		return -EOPNOTSUPP;
	}
	spin_lock_bh(&hold.lock);
	busy = hold.id;
	spin_unlock_bh(&hold.lock);
	if (busy) {
		why_err(why, "cannot hold: a hold is in force (release it, or wait for its deadline)");
		return -EBUSY;
	}
	held = kvcalloc(n, sizeof(*held), GFP_KERNEL);
	if (!held)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		held[i].disk = items[i].disk;
		percpu_ref_get(&held[i].disk->ref);
	}

	/* That of a hold which was released before. */
	cancel_delayed_work_sync(&deadline);
	spin_lock_bh(&hold.lock);
	hold.id = ++hold.last_id;
	hold.owner = owner;
	hold.n = n;
	hold.items = held;
	hold.from_ns = ktime_get_ns();
	*id = hold.id;
	deadline_id = hold.id;
	set_bits(held, n);
	spin_unlock_bh(&hold.lock);
	queue_delayed_work(system_highpri_wq, &deadline, msecs_to_jiffies(deadline_ms));
	wait_for_gate();
	return 0;
}

/**
 * blkcbt_hold_release() - let the writers of a hold go
 * @id: its number
 *
 * Return: 0, -ETIMEDOUT it was over before.
 */
int blkcbt_hold_release(u64 id)
{
	return hold_end(id, 0);
}

/**
 * blkcbt_hold_owner_gone() - end the hold of an owner that is gone, if it has one
 * @owner: the owner
 */
void blkcbt_hold_owner_gone(u32 owner)
{
	hold_end(0, owner);
}

/**
 * blkcbt_hold_exit() - no hold is in force any more; nobody can ask for one
 */
void blkcbt_hold_exit(void)
{
	cancel_delayed_work_sync(&deadline);
}
