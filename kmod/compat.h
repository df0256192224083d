/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every difference between kernels that the module runs on, and nothing else.
 * Found by the compile probes of kmod/probe.mk or by macros of the kernel
 * itself, never by version number: stable updates and vendors change signatures
 * within a series.
 */
#ifndef BLKCBT_COMPAT_H
#define BLKCBT_COMPAT_H

#include <linux/blkdev.h>
#include <linux/ftrace.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>

/*
 * The readers' side of the tables that the gate and the auditor look at. Code
 * that cannot be preempted is an RCU reader; turning preemption off is a
 * single instruction, where rcu_read_lock() is a call. On a real-time kernel
 * allocations need preemption, so there it is rcu_read_lock() after all.
 */
#ifdef CONFIG_PREEMPT_RT
#define blkcbt_read_lock()	rcu_read_lock()
#define blkcbt_read_unlock()	rcu_read_unlock()
#else
#define blkcbt_read_lock()	preempt_disable_notrace()
#define blkcbt_read_unlock()	preempt_enable_notrace()
#endif

/*
 * The gate needs the first argument of the function that it is called for, and
 * a way to send it elsewhere. BLKCBT_GATE_FLAGS as in kernel/livepatch/patch.c.
 * BLKCBT_NO_GATE: a test build, as if the kernel had no function tracer.
 */
#if defined(CONFIG_DYNAMIC_FTRACE) && !defined(BLKCBT_NO_GATE) && \
	(defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS) || defined(CONFIG_DYNAMIC_FTRACE_WITH_REGS))

#define BLKCBT_HAVE_GATE	1

#ifdef CONFIG_DYNAMIC_FTRACE_WITH_ARGS
#define BLKCBT_GATE_FLAGS	(FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT)
#else
#define BLKCBT_GATE_FLAGS \
	(FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT | FTRACE_OPS_FL_SAVE_REGS)
#endif

static __always_inline unsigned long blkcbt_fregs_arg0(struct ftrace_regs *fregs)
{
#if defined(ftrace_regs_get_argument)
	return ftrace_regs_get_argument(fregs, 0);
#elif defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS)
	return regs_get_kernel_argument(&fregs->regs, 0);
#else
	return regs_get_kernel_argument(ftrace_get_regs(fregs), 0);
#endif
}

static __always_inline void blkcbt_fregs_divert(struct ftrace_regs *fregs, unsigned long to)
{
#if defined(ftrace_instruction_pointer_set)
	ftrace_instruction_pointer_set(fregs, to);
#elif defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS)
	ftrace_regs_set_instruction_pointer(fregs, to);
#else
	instruction_pointer_set(ftrace_get_regs(fregs), to);
#endif
}

#endif /* BLKCBT_HAVE_GATE */

/**
 * struct blkcbt_bdev - a block device that is open
 * @bdev: the device
 * @held: what is to be closed with
 */
struct blkcbt_bdev {
	struct block_device *bdev;
	void *held;
};

#ifdef BLKCBT_HAVE_FMODE_OPEN
#define BLKCBT_BDEV_READ	FMODE_READ
#define BLKCBT_BDEV_OWN		(FMODE_READ | FMODE_WRITE | FMODE_EXCL)
#else
#define BLKCBT_BDEV_READ	BLK_OPEN_READ
#define BLKCBT_BDEV_OWN		(BLK_OPEN_READ | BLK_OPEN_WRITE)
#endif

/**
 * blkcbt_bdev_open() - open a block device
 * @dev: its number
 * @holder: NULL: for a look at it; else for reading and writing, and nobody else may
 * @b: filled in
 *
 * Context: may sleep.
 * Return: 0 or what the kernel says (-ENXIO no such device, -EBUSY).
 */
static inline int blkcbt_bdev_open(dev_t dev, void *holder, struct blkcbt_bdev *b)
{
#if defined(BLKCBT_HAVE_BDEV_FILE)
	struct file *file = bdev_file_open_by_dev(dev, holder ? BLKCBT_BDEV_OWN : BLKCBT_BDEV_READ,
						  holder, NULL);

	if (IS_ERR(file))
		return PTR_ERR(file);
	b->held = file;
	b->bdev = file_bdev(file);
#elif defined(BLKCBT_HAVE_BDEV_HANDLE)
	struct bdev_handle *handle = bdev_open_by_dev(dev, holder ? BLKCBT_BDEV_OWN :
						      BLKCBT_BDEV_READ, holder, NULL);

	if (IS_ERR(handle))
		return PTR_ERR(handle);
	b->held = handle;
	b->bdev = handle->bdev;
#elif defined(BLKCBT_HAVE_FMODE_OPEN)
	b->bdev = blkdev_get_by_dev(dev, holder ? BLKCBT_BDEV_OWN : BLKCBT_BDEV_READ, holder);
	b->held = holder;
	if (IS_ERR(b->bdev))
		return PTR_ERR(b->bdev);
#else
	b->bdev = blkdev_get_by_dev(dev, holder ? BLKCBT_BDEV_OWN : BLKCBT_BDEV_READ, holder,
				    NULL);
	b->held = holder;
	if (IS_ERR(b->bdev))
		return PTR_ERR(b->bdev);
#endif
	return 0;
}

/**
 * blkcbt_bdev_close() - close what blkcbt_bdev_open() opened
 * @b: the device
 *
 * Context: may sleep.
 */
static inline void blkcbt_bdev_close(struct blkcbt_bdev *b)
{
#if defined(BLKCBT_HAVE_BDEV_FILE)
	/* At once: whoever wants it next need not wait for the file to go. */
	bdev_fput(b->held);
#elif defined(BLKCBT_HAVE_BDEV_HANDLE)
	bdev_release(b->held);
#elif defined(BLKCBT_HAVE_FMODE_OPEN)
	blkdev_put(b->bdev, b->held ? BLKCBT_BDEV_OWN : BLKCBT_BDEV_READ);
#else
	blkdev_put(b->bdev, b->held);
#endif
}

/**
 * blkcbt_disk_bypass() - does this disk take writes past the block layer?
 * @disk: the disk
 *
 * Such writes are neither bios nor requests: nobody could track them.
 *
 * Return: what to say about it, NULL if it does not.
 */
static inline const char *blkcbt_disk_bypass(struct gendisk *disk)
{
#ifdef BLKCBT_HAVE_RW_PAGE
	if (disk->fops->rw_page)
		return "its driver writes pages past the block layer on this kernel (rw_page)";
#endif
#ifdef blk_queue_dax
	if (blk_queue_dax(disk->queue))
		return "it can be written through memory mappings (DAX)";
#endif
	return NULL;
}

/**
 * blkcbt_alloc_image_disk() - a gendisk that can be read as another one can
 * @below: the other one
 *
 * Context: may sleep.
 * Return: the gendisk, or an ERR_PTR().
 */
static inline struct gendisk *blkcbt_alloc_image_disk(struct gendisk *below)
{
	unsigned int logical = bdev_logical_block_size(below->part0);
	unsigned int physical = bdev_physical_block_size(below->part0);
	unsigned int align = max_t(unsigned int, queue_dma_alignment(below->queue),
				   SECTOR_SIZE - 1);
	struct gendisk *disk;
#ifdef BLKCBT_HAVE_ALLOC_DISK_LIMITS
	struct queue_limits limits = {
		.logical_block_size	= logical,
		.physical_block_size	= physical,
		.dma_alignment		= align,
	};

	disk = blk_alloc_disk(&limits, NUMA_NO_NODE);
#else
	disk = blk_alloc_disk(NUMA_NO_NODE);
	if (!disk)
		return ERR_PTR(-ENOMEM);
	blk_queue_logical_block_size(disk->queue, logical);
	blk_queue_physical_block_size(disk->queue, physical);
	blk_queue_dma_alignment(disk->queue, align);
#endif
	return disk;
}

#endif /* BLKCBT_COMPAT_H */
