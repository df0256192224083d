// SPDX-License-Identifier: GPL-2.0
/*
 * Who watches: which observers this kernel has to give, what can be tracked
 * with them, and what is said about those that are missing.
 *
 * Something must mark a write before the hardware gets it, and something must
 * mark it again when it completes, also a write that was under way when its
 * disk was attached:
 *
 *				before			at completion
 *	disks with requests	gate or block_rq_issue	block_rq_complete
 *	disks without (dm, md)	gate			gate (shim), block_bio_complete
 *
 * A kind of disk that lacks one of them is refused; if both kinds do, the
 * module does not load. The gate alone would not do at completion for disks
 * with requests: what was submitted before the attach, and passthrough, has no
 * shim.
 *
 *	mode		missing			lost
 *	FULL
 *	AUDIT_ONLY	gate			marked only when it is issued; disks
 *						without requests are refused
 *	UNAUDITED	block_rq_issue		nothing checks the gate: what goes round
 *						it is marked at completion, not counted
 *	PARTIAL		block_rq_complete	disks with requests are refused
 *	PARTIAL		block_bio_complete	disks without requests are refused
 *
 * Decided once, when the module is loaded: the kernel lets nobody take the gate
 * (FTRACE_OPS_FL_PERMANENT and _IPMODIFY) or a tracepoint away afterwards.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "disk.h"

static u32 observers;
static enum blkcbt_gate_mode mode;
static char reason[BLKCBT_REASON_LEN];

static bool have(u32 wanted)
{
	return (observers & wanted) == wanted;
}

#define NEEDS(disk, what, cost)	disk " needs " what ", and " cost

/**
 * blkcbt_observe_refuse() - may disks of this kind be tracked?
 * @bio_based: disks without requests
 *
 * Return: NULL, or why not.
 */
const char *blkcbt_observe_refuse(bool bio_based)
{
	const char *why = NULL;

	if (bio_based && !have(BLKCBT_OBSERVER_GATE))
		why = NEEDS("a disk without requests", "the gate", "there is none");
	else if (bio_based && !have(BLKCBT_OBSERVER_BIO_COMPLETE))
		why = NEEDS("a disk without requests", "the tracepoint block_bio_complete",
			    "there is none: a write under way now would complete unseen");
	else if (!bio_based && !have(BLKCBT_OBSERVER_COMPLETE))
		why = NEEDS("a disk with requests", "the tracepoint block_rq_complete",
			    "there is none: a write under way across a cut would be lost");
	else if (!bio_based && !have(BLKCBT_OBSERVER_GATE) && !have(BLKCBT_OBSERVER_ISSUE))
		why = NEEDS("a disk with requests", "the gate or the tracepoint block_rq_issue",
			    "there is neither");
	return why;
}

/* One more thing that is missing, and what that costs. */
static void add(const char *what, const char *cost)
{
	size_t n = strlen(reason);

	snprintf(reason + n, sizeof(reason) - n, "%s%s: %s", n ? "; " : "", what, cost);
}

static void conclude(const char *no_gate)
{
	reason[0] = '\0';
	mode = BLKCBT_GATE_FULL;
	if (!have(BLKCBT_OBSERVER_COMPLETE)) {
		mode = BLKCBT_GATE_PARTIAL;
		add("no tracepoint block_rq_complete",
		    "disks with requests (virtio, SCSI, NVMe) are refused");
	}
	if (!have(BLKCBT_OBSERVER_BIO_COMPLETE)) {
		mode = BLKCBT_GATE_PARTIAL;
		add("no tracepoint block_bio_complete",
		    "disks without requests (dm, md) are refused");
	}
	if (!have(BLKCBT_OBSERVER_ISSUE)) {
		mode = BLKCBT_GATE_UNAUDITED;
		add("no tracepoint block_rq_issue",
		    "a write that goes round the gate is marked, not counted");
	}
	if (!have(BLKCBT_OBSERVER_GATE)) {
		mode = BLKCBT_GATE_AUDIT_ONLY;
		add(no_gate, "tracepoints alone, disks without requests (dm, md) are refused");
	}
}

/**
 * blkcbt_observe_start() - begin to look at writes
 *
 * Where an observer is missing the module goes on with the others as far as
 * that is safe, and says so.
 *
 * Return: 0; -EOPNOTSUPP no disk of any kind could be tracked; another error.
 */
int blkcbt_observe_start(void)
{
	const char *no_gate = NULL;
	int err;

	err = blkcbt_gate_start(&no_gate);
	if (err == -ENOMEM)
		return err;
	observers = err ? 0 : BLKCBT_OBSERVER_GATE;
	err = blkcbt_auditor_start(!err, &observers);
	if (err) {
		pr_err("cannot load: the tracepoints of the block layer cannot be used (error %d)\n",
		       err);
		blkcbt_gate_stop();
		return err;
	}
	conclude(no_gate);
	if (blkcbt_observe_refuse(false) && blkcbt_observe_refuse(true)) {
		pr_err("cannot load: nothing could be tracked safely: %s\n", reason);
		blkcbt_observe_stop();
		return -EOPNOTSUPP;
	}
	if (mode != BLKCBT_GATE_FULL)
		pr_warn("DEGRADED (%s): %s\n", blkcbt_observe_mode_name(), reason);
	return 0;
}

/**
 * blkcbt_observe_stop() - look at no more writes
 *
 * When this returns, nobody is in the gate's callback or in a probe. Somebody
 * may still be in blkcbt_park_stub().
 */
void blkcbt_observe_stop(void)
{
	blkcbt_gate_stop();
	blkcbt_auditor_stop();
}

/**
 * blkcbt_observe_mode() - how writes are seen
 * @why: set to the reason when degraded, else to NULL
 *
 * Return: the mode.
 */
enum blkcbt_gate_mode blkcbt_observe_mode(const char **why)
{
	*why = mode == BLKCBT_GATE_FULL ? NULL : reason;
	return mode;
}

/**
 * blkcbt_observe_mode_name() - the mode as a word
 */
const char *blkcbt_observe_mode_name(void)
{
	static const char * const names[] = {
		[BLKCBT_GATE_FULL]	 = "full",
		[BLKCBT_GATE_AUDIT_ONLY] = "audit only",
		[BLKCBT_GATE_UNAUDITED]	 = "unaudited",
		[BLKCBT_GATE_PARTIAL]	 = "partial",
	};

	return names[mode];
}

/**
 * blkcbt_observers() - BLKCBT_OBSERVER_* that are there
 */
u32 blkcbt_observers(void)
{
	return observers;
}

/**
 * blkcbt_observe_degraded() - does a disk of this kind lack an observer?
 * @bio_based: disks without requests
 */
bool blkcbt_observe_degraded(bool bio_based)
{
	u32 wanted = BLKCBT_OBSERVER_GATE;

	wanted |= bio_based ? BLKCBT_OBSERVER_BIO_COMPLETE :
		  BLKCBT_OBSERVER_ISSUE | BLKCBT_OBSERVER_COMPLETE;
	return !have(wanted);
}
