// SPDX-License-Identifier: GPL-2.0
/*
 * A live patch of submit_bio_noacct(), which is where the gate of blkcbt sits:
 * one function has room for one redirection. It changes nothing: the
 * replacement goes on behind the call of the function tracer in the original.
 *
 * x86 without indirect branch tracking, which these virtual machines lack.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/ftrace.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static void (*behind_the_call)(struct bio *bio);

static void submit_replaced(struct bio *bio)
{
	behind_the_call(bio);
}

static struct klp_func funcs[] = {
	{ .old_name = "submit_bio_noacct", .new_func = submit_replaced },
	{ }
};

static struct klp_object objs[] = {
	{ .funcs = funcs },
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_submit_init(void)
{
	static const u8 endbr64[] = { 0xf3, 0x0f, 0x1e, 0xfa };
	unsigned long at = (unsigned long)submit_bio_noacct;

	if (!memcmp((void *)at, endbr64, sizeof(endbr64)))
		at += sizeof(endbr64);
	behind_the_call = (void *)(at + MCOUNT_INSN_SIZE);
	return klp_enable_patch(&patch);
}

static void __exit klp_submit_exit(void)
{
}

module_init(klp_submit_init);
module_exit(klp_submit_exit);
MODULE_DESCRIPTION("a live patch in the gate's place, for tests");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
