// SPDX-License-Identifier: GPL-2.0
/* Block devices are opened as handles (6.7 and 6.8). */
#include <linux/blkdev.h>

struct bdev_handle *probe(dev_t dev);
struct bdev_handle *probe(dev_t dev)
{
	return bdev_open_by_dev(dev, BLK_OPEN_READ, NULL, NULL);
}
