// SPDX-License-Identifier: GPL-2.0
/* Block drivers can be handed a page past the block layer (before 6.3). */
#include <linux/blkdev.h>

void *probe(const struct block_device_operations *fops);
void *probe(const struct block_device_operations *fops)
{
	return fops->rw_page;
}
