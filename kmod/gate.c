// SPDX-License-Identifier: GPL-2.0
/*
 * The gate: an ftrace callback on submit_bio_noacct(), through which every bio
 * comes before the block layer takes it.
 *
 * A write to a tracked disk is marked in the current map; a write to a
 * bio-based disk gets a completion shim as well. A bio that has to wait is
 * diverted: the callback sets the instruction pointer to blkcbt_park_stub(),
 * which queues it and returns to the submitter. It waits while writers are held
 * for a cut (then it is not marked: it belongs to the next epoch), until the
 * store knows of it (nor then), while what it overwrites is preserved, or when
 * there was no memory for its shim. The gate
 * itself never sleeps and never calls back into the block layer, and a bio that
 * needs nothing runs on in the original function, so no sleeping task ever has
 * a frame of this module on its stack.
 *
 * A bio that the block layer splits comes back below submit_bio_noacct(): each
 * range is seen once. A bio that is submitted from within another driver's
 * submission (dm, md: current->bio_list is set) is a bio like any other.
 *
 * Compiled without tracing; this callback and what it inlines are all that a
 * write pays for, so it reads top to bottom as the processor runs it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/ftrace.h>
#include "disk.h"
#include "preserve.h"
#include "store.h"

#ifdef BLKCBT_HAVE_GATE

static __always_inline void gate_shim(struct blkcbt_disk *d, struct bio *bio, sector_t sector,
				      sector_t sectors, struct ftrace_regs *fregs)
{
	if (unlikely(!blkcbt_shim_try(d, bio, sector, sectors)))
		blkcbt_fregs_divert(fregs, (unsigned long)blkcbt_park_stub);
}

/* Does the store know of all its extents? Then it need not be looked at any closer. */
static __always_inline bool gate_hot(struct blkcbt_disk *d, sector_t sector, sector_t sectors)
{
	struct blkcbt_store_state *st = rcu_dereference_raw(d->store_state);

	return !st || blkcbt_store_hot(st, sector >> d->granule_sector_shift,
				       (sector + sectors - 1) >> d->granule_sector_shift);
}

/* Writers are held, a consistent epoch is open, or there is a store and extents are cold. */
static noinline notrace void gate_slow(struct blkcbt_disk *d, struct bio *bio, sector_t sector,
				       sector_t sectors, struct ftrace_regs *fregs)
{
	u64 first = sector >> d->granule_sector_shift;
	u64 last = (sector + sectors - 1) >> d->granule_sector_shift;
	unsigned long slow = READ_ONCE(d->slow);

	if (slow & BIT(BLKCBT_SLOW_HOLD)) {
		atomic64_inc(&d->held);
		atomic64_cmpxchg(&d->held_from_ns, 0, ktime_get_ns());
		blkcbt_fregs_divert(fregs, (unsigned long)blkcbt_park_stub);
		return;
	}
	if (slow & BIT(BLKCBT_SLOW_STORE) && !gate_hot(d, sector, sectors) &&
	    blkcbt_store_cold(d, first)) {
		blkcbt_fregs_divert(fregs, (unsigned long)blkcbt_park_stub);
		return;
	}
	blkcbt_disk_mark(d, sector, sectors);
	if (slow & BIT(BLKCBT_SLOW_PRESERVE) && blkcbt_preserve_needed(d, first, last))
		blkcbt_fregs_divert(fregs, (unsigned long)blkcbt_park_stub);
	else if (d->shims)
		gate_shim(d, bio, sector, sectors, fregs);
}

/*
 * Of a tracked disk. Between the two counts it is known, to whoever holds
 * writers, that this processor may not have seen a bit of d->slow.
 */
static __always_inline void gate_enter(void)
{
#ifndef CONFIG_PREEMPT_RT
	__this_cpu_inc(blkcbt_in_gate);
	barrier();
#endif
}

static __always_inline void gate_leave(void)
{
#ifndef CONFIG_PREEMPT_RT
	barrier();
	__this_cpu_dec(blkcbt_in_gate);
#endif
}

static void notrace gate_callback(unsigned long ip, unsigned long parent_ip,
				  struct ftrace_ops *op, struct ftrace_regs *fregs)
{
	struct bio *bio = (struct bio *)blkcbt_fregs_arg0(fregs);
	struct blkcbt_disk *d;

	if (!op_is_write(bio->bi_opf))
		return;

	blkcbt_read_lock();
	d = blkcbt_disk_find(bio->bi_bdev->bd_disk);
	if (d) {
		sector_t sector = blkcbt_bio_sector(bio);
		unsigned int sectors = bio_sectors(bio);

		gate_enter();
		if (likely(sectors) && !blkcbt_fault_gate()) {
			unsigned long slow = READ_ONCE(d->slow);

			if (unlikely(slow) && (slow != BIT(BLKCBT_SLOW_STORE) ||
					       !gate_hot(d, sector, sectors))) {
				gate_slow(d, bio, sector, sectors, fregs);
			} else {
				blkcbt_disk_mark(d, sector, sectors);
				if (unlikely(d->shims))
					gate_shim(d, bio, sector, sectors, fregs);
			}
		}
		gate_leave();
	}
	blkcbt_read_unlock();
}

static struct ftrace_ops gate_ops = {
	.func	= gate_callback,
	/* PERMANENT: not to be switched off by the ftrace_enabled sysctl. */
	.flags	= BLKCBT_GATE_FLAGS,
};

static void notrace probe_callback(unsigned long ip, unsigned long parent_ip,
				   struct ftrace_ops *op, struct ftrace_regs *fregs)
{
}

/* Wants of ftrace what the gate wants, but nothing that it grants only once. */
static struct ftrace_ops probe_ops = {
	.func	= probe_callback,
	.flags	= FTRACE_OPS_FL_PERMANENT,
};

static int gate_register(struct ftrace_ops *ops)
{
	int err = ftrace_set_filter_ip(ops, (unsigned long)submit_bio_noacct, 0, 0);

	if (!err)
		err = register_ftrace_function(ops);
	if (err)
		ftrace_free_filter(ops);
	return err;
}

static void gate_unregister(struct ftrace_ops *ops)
{
	unregister_ftrace_function(ops);
	ftrace_free_filter(ops);
}

/* Why there is none, and what to do. */
enum no_gate { SWITCHED_OFF, PATCHED, NOT_TRACEABLE, DISABLED, REFUSED };

static const char * const no_gate[] = {
	[SWITCHED_OFF]	=
		"no gate, ftrace is switched off (sysctl kernel.ftrace_enabled=1, then load blkcbt again)",
	[PATCHED]	=
		"no gate, a live patch holds submit_bio_noacct (disable the patch in /sys/kernel/livepatch, then load blkcbt again)",
	[NOT_TRACEABLE]	=
		"no gate, submit_bio_noacct cannot be traced on this kernel",
	[DISABLED]	=
		"no gate, ftrace has disabled itself (what does the kernel's log say? reboot)",
	[REFUSED]	=
		"no gate, ftrace refused submit_bio_noacct (what does the kernel's log say?)",
};

/* Why it is -EBUSY: whether ftrace is switched off is not to be read anywhere. */
static enum no_gate busy(void)
{
	if (gate_register(&probe_ops))
		return SWITCHED_OFF;
	gate_unregister(&probe_ops);
	return PATCHED;
}

static bool registered;

/**
 * blkcbt_gate_start() - begin to look at bios
 * @why: set to why this kernel has no gate to give
 *
 * Return: 0; -ENOMEM, which is no reason to go without for as long as the
 * module is loaded; another error: there is none to be had.
 */
int blkcbt_gate_start(const char **why)
{
	int err = gate_register(&gate_ops);

	registered = !err;
	switch (err) {
	case 0:
	case -ENOMEM:
		break;
	case -EBUSY:
		*why = no_gate[busy()];
		break;
	case -EINVAL:
		*why = no_gate[NOT_TRACEABLE];
		break;
	case -ENODEV:
		*why = no_gate[DISABLED];
		break;
	default:
		pr_warn("ftrace refused submit_bio_noacct: error %d\n", err);
		*why = no_gate[REFUSED];
	}
	return err;
}

/**
 * blkcbt_gate_stop() - look at no more bios
 *
 * When this returns, nobody is in the callback. Somebody may still be in
 * blkcbt_park_stub().
 */
void blkcbt_gate_stop(void)
{
	if (registered)
		gate_unregister(&gate_ops);
	registered = false;
}

#else

int blkcbt_gate_start(const char **why)
{
	*why = "no gate, this kernel has no function tracer to redirect with";
	return -EOPNOTSUPP;
}

void blkcbt_gate_stop(void)
{
}

#endif
