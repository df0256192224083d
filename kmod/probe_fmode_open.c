// SPDX-License-Identifier: GPL-2.0
/* Block devices are opened with an fmode_t (before 6.5). */
#include <linux/blkdev.h>

struct block_device *probe(dev_t dev);
struct block_device *probe(dev_t dev)
{
	return blkdev_get_by_dev(dev, FMODE_READ, NULL);
}
