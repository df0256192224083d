// SPDX-License-Identifier: GPL-2.0
/*
 * The auditor: the second observer, on the tracepoints of the block layer.
 *
 * block_rq_complete, before the owner of a write is told: the write is marked
 * in the map that is current then, so a write in flight across a cut is in the
 * next epoch as well, and no bit is lost whatever the gate did.
 *
 * block_rq_issue, before the hardware gets a write: is it marked?
 *
 *	in the current map or the open epoch's		yes
 *	in the map of the epoch committed last, or the
 *	request is older than that commit, or throttled	LATE: marked again, counted
 *	otherwise					ESCAPE: marked, counted, reported
 *
 * Without a gate nothing is marked yet at issue, and nothing has escaped: it is
 * marked there. Without block_rq_issue nothing checks the gate (see observe.c).
 *
 * block_bio_complete, of bio-based disks: a write that completes without a shim.
 * Before the first cut everything is dirty; after it, the place of a completed
 * bio is not known any more, so the whole disk is marked.
 *
 * Passthrough requests (SG_IO, NVMe ioctls) are no bios: they are decoded,
 * marked at issue and at completion, and counted.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/blk-mq.h>
#include <linux/tracepoint.h>
#include <scsi/scsi_cmnd.h>
#include <trace/events/block.h>
#include "disk.h"
#include "preserve.h"
#include "scsi_cdb.h"
#include "store.h"

/* Set before any disk is tracked: block_rq_issue is there, and counts passthrough. */
static bool issue_seen;

static void mark_passthrough(struct blkcbt_disk *d, struct request *rq, bool count)
{
	u64 lba, blocks, size, sector;
	enum blkcbt_cdb_data data;
	struct scsi_cmnd *cmd;
	unsigned int shift;

	if (req_op(rq) == REQ_OP_DRV_OUT)
		data = BLKCBT_CDB_DATA_OUT;
	else
		data = blk_rq_bytes(rq) ? BLKCBT_CDB_DATA_IN : BLKCBT_CDB_NO_DATA;

	if (!d->scsi) {
		/* Commands of others are not understood: out or without data may write. */
		if (data == BLKCBT_CDB_DATA_IN)
			return;
		goto whole;
	}

	cmd = blk_mq_rq_to_pdu(rq);
	switch (blkcbt_cdb_decode(cmd->cmnd, cmd->cmd_len, data, &lba, &blocks)) {
	case BLKCBT_CDB_HARMLESS:
		return;
	case BLKCBT_CDB_RANGE:
		shift = ilog2(queue_logical_block_size(rq->q)) - SECTOR_SHIFT;
		size = d->nr_sectors >> shift;
		if (lba >= size)
			return;
		sector = lba << shift;
		blkcbt_disk_mark(d, sector, min(blocks, size - lba) << shift);
		goto counted;
	case BLKCBT_CDB_WHOLE:
		goto whole;
	}
	return;
whole:
	blkcbt_disk_mark_whole(d);
counted:
	if (!count)
		return;
	atomic64_inc(&d->passthrough);
	blkcbt_preserve_upset(d);
	blkcbt_store_upset(d, "a command went past the block layer (SG_IO or the like)");
}

/* A write that is not marked in the current map. */
static noinline void judge(struct blkcbt_disk *d, struct request *rq, sector_t sector,
			   sector_t sectors, u64 first, u64 last)
{
	const struct blkcbt_map *cur, *old;
	bool open = READ_ONCE(d->old_open);
	u64 start_ns = rq->start_time_ns;

	/* A state older than the maps that follow errs towards LATE. */
	smp_rmb();
	cur = rcu_dereference_raw(d->cur);
	/* A cut stores old before cur: who sees the new cur sees the new old. */
	smp_rmb();
	old = rcu_dereference_raw(d->old);
	if (blkcbt_map_test_slow(cur, old, first, last)) {
		if (open)
			return;
		if (blkcbt_map_test_slow(cur, NULL, first, last))
			return;
		/* A cut may have come in between: then old is an open epoch's after all. */
		if (READ_ONCE(d->old_open))
			return;
		atomic64_inc(&d->late);
		goto mark;
	}
	/* An abort fills cur before it empties old: who missed both looks again. */
	smp_rmb();
	if (blkcbt_map_test_slow(rcu_dereference_raw(d->cur), NULL, first, last))
		return;
	if (!start_ns || start_ns < READ_ONCE(d->commit_ns) ||
	    (rq->bio && bio_flagged(rq->bio, BIO_BPS_THROTTLED)))
		atomic64_inc(&d->late);
	else
		blkcbt_disk_escape(d, sector, sectors);
mark:
	blkcbt_disk_mark(d, sector, sectors);
}

static __always_inline void audit_range(struct blkcbt_disk *d, struct request *rq,
					sector_t sector, sector_t sectors)
{
	u64 first = sector >> d->granule_sector_shift;
	u64 last = (sector + sectors - 1) >> d->granule_sector_shift;

	if (unlikely(!sectors))
		return;
	if (unlikely(last >= d->nr_granules || first > last))
		blkcbt_disk_mark_odd(d, sector, sectors);
	else if (unlikely(!blkcbt_map_test(rcu_dereference_raw(d->cur), first, last)))
		judge(d, rq, sector, sectors, first, last);
}

/*
 * The bios of a discard need not be adjacent (queues that take several ranges
 * merge them into one request), and passthrough is another story altogether.
 */
static noinline void odd_request(struct blkcbt_disk *d, struct request *rq, bool audit,
				 bool count)
{
	struct bio *bio;

	if (blk_rq_is_passthrough(rq)) {
		mark_passthrough(d, rq, count);
		return;
	}
	__rq_for_each_bio(bio, rq) {
		if (!bio_sectors(bio))
			continue;
		if (audit)
			audit_range(d, rq, bio->bi_iter.bi_sector, bio_sectors(bio));
		else
			blkcbt_disk_mark(d, bio->bi_iter.bi_sector, bio_sectors(bio));
	}
}

static __always_inline bool is_odd(struct request *rq)
{
	return blk_rq_is_passthrough(rq) ||
	       ((req_op(rq) == REQ_OP_DISCARD || req_op(rq) == REQ_OP_SECURE_ERASE) &&
		rq->bio != rq->biotail);
}

static __always_inline bool may_write(struct request *rq)
{
	return op_is_write(rq->cmd_flags) || req_op(rq) == REQ_OP_DRV_IN;
}

/* @sectors: how many from where the request is; @count: passthrough, in the statistics */
static __always_inline void mark_request(struct blkcbt_disk *d, struct request *rq,
					 sector_t sectors, bool count)
{
	if (unlikely(is_odd(rq)))
		odd_request(d, rq, false, count);
	else if (likely(sectors))
		blkcbt_disk_mark(d, blk_rq_pos(rq), sectors);
}

static void probe_rq_issue(void *data, struct request *rq)
{
	struct blkcbt_disk *d;

	if (!may_write(rq) || blkcbt_fault_blind())
		return;
	blkcbt_read_lock();
	d = blkcbt_disk_find(rq->q->disk);
	if (d) {
		if (unlikely(is_odd(rq)))
			odd_request(d, rq, true, true);
		else
			audit_range(d, rq, blk_rq_pos(rq), blk_rq_sectors(rq));
	}
	blkcbt_read_unlock();
}

/* In place of probe_rq_issue() when there is no gate. */
static void probe_rq_issue_mark(void *data, struct request *rq)
{
	struct blkcbt_disk *d;

	if (!may_write(rq) || blkcbt_fault_blind())
		return;
	blkcbt_read_lock();
	d = blkcbt_disk_find(rq->q->disk);
	if (d)
		mark_request(d, rq, blk_rq_sectors(rq), true);
	blkcbt_read_unlock();
}

static void probe_rq_complete(void *data, struct request *rq, blk_status_t error,
			      unsigned int nr_bytes)
{
	struct blkcbt_disk *d;

	if (!may_write(rq) || blkcbt_fault_blind())
		return;
	blkcbt_read_lock();
	d = blkcbt_disk_find(rq->q->disk);
	if (d)
		mark_request(d, rq, (nr_bytes + SECTOR_SIZE - 1) >> SECTOR_SHIFT, !issue_seen);
	blkcbt_read_unlock();
}

static void probe_bio_complete(void *data, struct request_queue *q, struct bio *bio)
{
	struct blkcbt_disk *d;

	if (!op_is_write(bio->bi_opf) || blkcbt_fault_blind())
		return;
	/* An empty flush has no shim. */
	if ((bio->bi_opf & REQ_PREFLUSH) && !bio->bi_iter.bi_size)
		return;
	blkcbt_read_lock();
	d = blkcbt_disk_find(bio->bi_bdev->bd_disk);
	if (d && d->bio_based && READ_ONCE(d->cut_once) && !blkcbt_shim_completes(d, bio)) {
		blkcbt_disk_escape(d, bio->bi_iter.bi_sector, 0);
		blkcbt_disk_mark_whole(d);
	}
	blkcbt_read_unlock();
}

enum { ISSUE, COMPLETE, BIO_COMPLETE };

static struct {
	const char *name;
	void *probe;
	u32 observer;
	struct tracepoint *tp;
	bool registered;
} probes[] = {
	[ISSUE]		= { .name = "block_rq_issue", .observer = BLKCBT_OBSERVER_ISSUE },
	[COMPLETE]	= { .name = "block_rq_complete", .observer = BLKCBT_OBSERVER_COMPLETE,
			    .probe = probe_rq_complete },
	[BIO_COMPLETE]	= { .name = "block_bio_complete", .observer = BLKCBT_OBSERVER_BIO_COMPLETE,
			    .probe = probe_bio_complete },
};

static void find_probe(struct tracepoint *tp, void *priv)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		if (!strcmp(tp->name, probes[i].name) && !blkcbt_fault_tracepoint(tp->name))
			probes[i].tp = tp;
}

/**
 * blkcbt_auditor_stop() - look at no more requests
 *
 * When this returns, nobody is in a probe.
 */
void blkcbt_auditor_stop(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		if (probes[i].registered)
			tracepoint_probe_unregister(probes[i].tp, probes[i].probe, NULL);
		probes[i].registered = false;
	}
	tracepoint_synchronize_unregister();
}

/**
 * blkcbt_auditor_start() - begin to look at requests
 * @gate: there is a gate to be audited
 * @observers: BLKCBT_OBSERVER_* of the tracepoints that are there are added
 *
 * Return: 0, also when tracepoints are missing, or an error.
 */
int blkcbt_auditor_start(bool gate, u32 *observers)
{
	unsigned int i;
	int err;

	/* The compiler compares these with what this kernel calls. */
	check_trace_callback_type_block_rq_issue(probe_rq_issue);
	check_trace_callback_type_block_rq_issue(probe_rq_issue_mark);
	check_trace_callback_type_block_rq_complete(probe_rq_complete);
	check_trace_callback_type_block_bio_complete(probe_bio_complete);

	probes[ISSUE].probe = gate ? probe_rq_issue : probe_rq_issue_mark;
	for_each_kernel_tracepoint(find_probe, NULL);
	issue_seen = probes[ISSUE].tp;
	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		if (!probes[i].tp)
			continue;
		err = tracepoint_probe_register(probes[i].tp, probes[i].probe, NULL);
		if (err) {
			blkcbt_auditor_stop();
			return err;
		}
		probes[i].registered = true;
		*observers |= probes[i].observer;
	}
	return 0;
}
