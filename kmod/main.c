// SPDX-License-Identifier: GPL-2.0
/*
 * Loading and unloading.
 *
 * Order of unloading: no disk is attached (each holds the module). No more
 * commands; no more bios and requests; the last shims and parked bios of disks
 * that were detached come back; whoever still stands in our text, preempted or
 * in an interrupt, leaves it; the workqueues end.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/rcupdate.h>
#include "disk.h"
#include "preserve.h"
#include "store.h"

struct workqueue_struct *blkcbt_wq;

unsigned int blkcbt_store_tick_ms = 10000;
module_param_named(store_tick_ms, blkcbt_store_tick_ms, uint, 0644);
MODULE_PARM_DESC(store_tick_ms, "how often extents that were not written are retired from a store");

#ifdef BLKCBT_FAULTS
unsigned int blkcbt_fault_gate_skip;
unsigned int blkcbt_fault_audit_blind;
unsigned int blkcbt_fault_page_every;
unsigned int blkcbt_fault_shim_every;
unsigned int blkcbt_fault_cut_late_ms;
unsigned int blkcbt_fault_preserve_skip_every;
unsigned int blkcbt_fault_preserve_read_every;
unsigned int blkcbt_fault_store_write_every;
unsigned int blkcbt_fault_store_skip_every;
bool blkcbt_fault_store_undrained;
bool blkcbt_fault_store_unflushed;
bool blkcbt_fault_free_early;
bool blkcbt_fault_locks_inverted;
static char *blkcbt_fault_no_tracepoint;
atomic_t blkcbt_fault_count = ATOMIC_INIT(0);

module_param_named(fault_gate_skip, blkcbt_fault_gate_skip, uint, 0600);
MODULE_PARM_DESC(fault_gate_skip, "the gate does not see one write in N");
module_param_named(fault_audit_blind, blkcbt_fault_audit_blind, uint, 0600);
MODULE_PARM_DESC(fault_audit_blind, "neither auditor nor completion shim marks or judges");
module_param_named(fault_page_every, blkcbt_fault_page_every, uint, 0600);
MODULE_PARM_DESC(fault_page_every, "one map page in N cannot be had");
module_param_named(fault_shim_every, blkcbt_fault_shim_every, uint, 0600);
MODULE_PARM_DESC(fault_shim_every, "one shim in N cannot be had: the bio is parked");
module_param_named(fault_cut_late, blkcbt_fault_cut_late_ms, uint, 0600);
MODULE_PARM_DESC(fault_cut_late, "of the disks of a cut, all but the first are cut N ms later each");
module_param_named(fault_preserve_skip, blkcbt_fault_preserve_skip_every, uint, 0600);
MODULE_PARM_DESC(fault_preserve_skip, "one write in N does not wait for what it overwrites");
module_param_named(fault_preserve_read, blkcbt_fault_preserve_read_every, uint, 0600);
MODULE_PARM_DESC(fault_preserve_read, "one read in N of what is to be preserved fails");
module_param_named(fault_store_write, blkcbt_fault_store_write_every, uint, 0600);
MODULE_PARM_DESC(fault_store_write, "one write in N to a store fails");
module_param_named(fault_store_skip, blkcbt_fault_store_skip_every, uint, 0600);
MODULE_PARM_DESC(fault_store_skip, "one write in N into a cold extent does not wait for the store");
module_param_named(fault_store_drain, blkcbt_fault_store_undrained, bool, 0600);
MODULE_PARM_DESC(fault_store_drain, "extents are retired while writes into them are under way");
module_param_named(fault_store_flush, blkcbt_fault_store_unflushed, bool, 0600);
MODULE_PARM_DESC(fault_store_flush, "extents are retired while the disk has them in a volatile cache only");
/* For debug kernels: what KASAN and lockdep must report. */
module_param_named(fault_early_free, blkcbt_fault_free_early, bool, 0600);
MODULE_PARM_DESC(fault_early_free, "detach uses a disk after it was freed");
module_param_named(fault_lock_order, blkcbt_fault_locks_inverted, bool, 0600);
MODULE_PARM_DESC(fault_lock_order, "detach takes two locks in the other order than attach");
module_param_named(fault_no_tracepoint, blkcbt_fault_no_tracepoint, charp, 0400);
MODULE_PARM_DESC(fault_no_tracepoint, "tracepoints that are not found, separated by commas");

/**
 * blkcbt_fault_tracepoint() - is this tracepoint to be missing?
 * @name: its name
 */
bool blkcbt_fault_tracepoint(const char *name)
{
	const char *at = blkcbt_fault_no_tracepoint;
	size_t len = strlen(name);

	while (at && *at) {
		size_t n = strcspn(at, ",");

		if (n == len && !strncmp(at, name, n))
			return true;
		at += n + (at[n] == ',');
	}
	return false;
}
#endif

static int __init blkcbt_init(void)
{
	int err = -ENOMEM;

	blkcbt_wq = alloc_workqueue("blkcbt", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!blkcbt_wq)
		return -ENOMEM;
	err = blkcbt_shim_init();
	if (err)
		goto out_wq;
	err = blkcbt_image_init();
	if (err)
		goto out_shim;
	err = blkcbt_store_init();
	if (err)
		goto out_image;
	err = blkcbt_observe_start();
	if (err)
		goto out_store;
	err = blkcbt_chardev_init();
	if (err)
		goto out_observe;
	err = blkcbt_genl_init();
	if (err)
		goto out_chardev;
#ifdef BLKCBT_FAULTS
	pr_alert("FAULT INJECTION BUILD, for tests only: it may be told to lose changes\n");
	add_taint(TAINT_USER, LOCKDEP_STILL_OK);
#endif
	pr_info("loaded, version %s, tracking mode %s\n", BLKCBT_VERSION,
		blkcbt_observe_mode_name());
	return 0;

out_chardev:
	blkcbt_chardev_exit();
out_observe:
	blkcbt_observe_stop();
	synchronize_rcu();
out_store:
	blkcbt_store_exit();
out_image:
	blkcbt_image_exit();
out_shim:
	blkcbt_shim_exit();
out_wq:
	destroy_workqueue(blkcbt_wq);
	return err;
}

static void __exit blkcbt_exit(void)
{
	blkcbt_genl_exit();
	blkcbt_hold_exit();
	blkcbt_chardev_exit();
	blkcbt_observe_stop();
	blkcbt_disks_wait();
	/* Interrupts and readers, then tasks that were preempted in our text. */
	synchronize_rcu();
	synchronize_rcu_tasks();
	blkcbt_park_exit();
	blkcbt_shim_exit();
	/* The last preserved granules, and what frees them. */
	destroy_workqueue(blkcbt_wq);
	blkcbt_preserve_exit();
	blkcbt_image_exit();
	blkcbt_store_exit();
}

module_init(blkcbt_init);
module_exit(blkcbt_exit);

MODULE_DESCRIPTION("changed-block tracking for failback replication");
MODULE_VERSION(BLKCBT_VERSION);
MODULE_LICENSE("GPL");
