// SPDX-License-Identifier: GPL-2.0
/* Compiles on every supported kernel: shows that the probes themselves work. */
#include <linux/module.h>
#include <linux/blkdev.h>
#include <linux/ftrace.h>

struct gendisk *probe(struct block_device *bdev);
struct gendisk *probe(struct block_device *bdev)
{
	return bdev->bd_disk;
}
