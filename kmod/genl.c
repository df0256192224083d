// SPDX-License-Identifier: GPL-2.0
/*
 * The generic netlink family: the control plane, as <linux/blkcbt.h> says.
 *
 * Each command has its own policy, so an attribute that it does not know is
 * refused, and checks CAP_SYS_ADMIN of the caller and of whoever opened the
 * socket. An error carries a text that names the disk and the remedy.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <net/genetlink.h>
#include "disk.h"
#include "preserve.h"
#include "store.h"

static struct genl_family family;

static const struct nla_policy no_policy[BLKCBT_A_MAX + 1] = { };

static const struct nla_policy dev_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MAJOR]	= { .type = NLA_U32 },
	[BLKCBT_A_MINOR]	= { .type = NLA_U32 },
};

static const struct nla_policy attach_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MAJOR]	= { .type = NLA_U32 },
	[BLKCBT_A_MINOR]	= { .type = NLA_U32 },
	[BLKCBT_A_GRANULE_BYTES] = { .type = NLA_U32 },
	[BLKCBT_A_STORE_AWAITED] = { .type = NLA_FLAG },
	[BLKCBT_A_STORE_FD]	= { .type = NLA_U32 },
	[BLKCBT_A_IDENTITY]	= { .type = NLA_BINARY, .len = BLKCBT_IDENTITY_BYTES },
	[BLKCBT_A_STORE_GENERATION] = { .type = NLA_U64 },
	[BLKCBT_A_STORE_HOT_MAX] = { .type = NLA_U32 },
};

static const struct nla_policy store_add_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MAJOR]	= { .type = NLA_U32 },
	[BLKCBT_A_MINOR]	= { .type = NLA_U32 },
	[BLKCBT_A_STORE_FD]	= { .type = NLA_U32 },
	[BLKCBT_A_IDENTITY]	= { .type = NLA_BINARY, .len = BLKCBT_IDENTITY_BYTES },
	[BLKCBT_A_STORE_GENERATION] = { .type = NLA_U64 },
	[BLKCBT_A_STORE_HOT_MAX] = { .type = NLA_U32 },
};

static const struct nla_policy store_format_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MAJOR]	= { .type = NLA_U32 },
	[BLKCBT_A_MINOR]	= { .type = NLA_U32 },
	[BLKCBT_A_STORE_FD]	= { .type = NLA_U32 },
	[BLKCBT_A_IDENTITY]	= { .type = NLA_BINARY, .len = BLKCBT_IDENTITY_BYTES },
	[BLKCBT_A_GRANULE_BYTES] = { .type = NLA_U32 },
	[BLKCBT_A_STORE_EXTENT_BYTES] = { .type = NLA_U32 },
};

static const struct nla_policy detach_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MAJOR]	= { .type = NLA_U32 },
	[BLKCBT_A_MINOR]	= { .type = NLA_U32 },
	[BLKCBT_A_FORCE]	= { .type = NLA_FLAG },
};

static const struct nla_policy range_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MAJOR]	= { .type = NLA_U32 },
	[BLKCBT_A_MINOR]	= { .type = NLA_U32 },
	[BLKCBT_A_FROM_BYTES]	= { .type = NLA_U64 },
	[BLKCBT_A_TO_BYTES]	= { .type = NLA_U64 },
};

static const struct nla_policy group_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_EPOCH]	= { .type = NLA_U64 },
	[BLKCBT_A_DISK]		= NLA_POLICY_NESTED(dev_policy),
};

static const struct nla_policy cut_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_EPOCH]	= { .type = NLA_U64 },
	[BLKCBT_A_DISK]		= NLA_POLICY_NESTED(dev_policy),
	[BLKCBT_A_EPOCH_MODE]	= { .type = NLA_U32 },
	[BLKCBT_A_BUDGET_BYTES]	= { .type = NLA_U64 },
	[BLKCBT_A_HOLD_ID]	= { .type = NLA_U64 },
};

static const struct nla_policy hold_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_DISK]		= NLA_POLICY_NESTED(dev_policy),
	[BLKCBT_A_DEADLINE_MS]	= { .type = NLA_U32 },
};

static const struct nla_policy release_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_HOLD_ID]	= { .type = NLA_U64 },
};

static const struct nla_policy commit_policy[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_EPOCH]	= { .type = NLA_U64 },
	[BLKCBT_A_DISK]		= NLA_POLICY_NESTED(range_policy),
};

static int say(struct genl_info *info, const char *text, int err)
{
	if (info->extack && err)
		info->extack->_msg = text;
	return err;
}

/*
 * A text that was put together for this error. The reply to an error is made
 * after the command has returned, and the kernel's own formatted messages end
 * after 80 characters: so the text goes into a page that hangs on the request,
 * as a fragment of no bytes, and is freed with it. A request comes without
 * fragments; one that has several messages needs one page, for each is answered
 * before the next is looked at.
 */
static int say_text(struct sk_buff *skb, struct genl_info *info, const char *text, int err)
{
	struct skb_shared_info *shinfo = skb_shinfo(skb);
	struct page *page;
	char *kept;

	if (!err || !text[0])
		return err;
	/* What is this long is released without its fragments (netlink_skb_destructor()). */
	if (is_vmalloc_addr(skb->head))
		return say(info, "refused (name fewer disks in one command to be told why)", err);
	if (!shinfo->nr_frags) {
		page = alloc_page(GFP_KERNEL);
		if (!page)
			return say(info, "refused, and there is no memory to say why", err);
		skb_fill_page_desc(skb, 0, page, 0, 0);
	}
	kept = skb_frag_address(&shinfo->frags[0]);
	strscpy(kept, text, BLKCBT_WHY_LEN);
	return say(info, kept, err);
}

static int admin(struct sk_buff *skb, struct genl_info *info)
{
	if (netlink_capable(skb, CAP_SYS_ADMIN))
		return 0;
	return say(info, "not permitted: CAP_SYS_ADMIN is needed (run it as root)", -EPERM);
}

static int get_dev(struct sk_buff *skb, struct genl_info *info, struct nlattr **attrs, dev_t *dev)
{
	char why[BLKCBT_WHY_LEN];
	u32 major, minor;

	if (!attrs[BLKCBT_A_MAJOR] || !attrs[BLKCBT_A_MINOR])
		return say(info, "no disk named: BLKCBT_A_MAJOR and BLKCBT_A_MINOR are needed",
			   -EINVAL);
	major = nla_get_u32(attrs[BLKCBT_A_MAJOR]);
	minor = nla_get_u32(attrs[BLKCBT_A_MINOR]);
	if (major > (U32_MAX >> MINORBITS) || minor > MINORMASK) {
		snprintf(why, sizeof(why), "disk %u:%u: no such disk (no such device number)",
			 major, minor);
		return say_text(skb, info, why, -ENODEV);
	}
	*dev = MKDEV(major, minor);
	return 0;
}

static struct blkcbt_disk *get_disk_by(struct sk_buff *skb, struct genl_info *info,
				       struct nlattr **attrs)
{
	char why[BLKCBT_WHY_LEN];
	struct blkcbt_disk *d;
	dev_t dev;
	int err = get_dev(skb, info, attrs, &dev);

	if (err)
		return ERR_PTR(err == -ENODEV ? -ENOENT : err);
	d = blkcbt_disk_by_dev(dev);
	if (!d) {
		snprintf(why, sizeof(why), "disk %u:%u: not tracked (attach it first)",
			 MAJOR(dev), MINOR(dev));
		return ERR_PTR(say_text(skb, info, why, -ENOENT));
	}
	return d;
}

/*
 * Replies
 */

static int put_u64(struct sk_buff *skb, int attr, u64 value)
{
	return nla_put_u64_64bit(skb, attr, value, BLKCBT_A_PAD);
}

static const char *downgrade_reason(struct blkcbt_disk *d)
{
	struct blkcbt_preserve *p = blkcbt_preserve_get(d);
	const char *reason = d->downgrade_reason;

	if (p && blkcbt_preserve_off(p))
		reason = p->group->reason;
	blkcbt_preserve_put(p);
	return reason;
}

static int put_preserve(struct sk_buff *skb, struct blkcbt_disk *d)
{
	const struct blkcbt_preserve *p = rcu_dereference_protected(d->preserve,
						lockdep_is_held(&blkcbt_ctl_mutex));
	bool off = p && blkcbt_preserve_off(p);

	return nla_put_u32(skb, BLKCBT_A_EPOCH_MODE, p && !off ? p->mode : BLKCBT_MODE_FUZZY) ||
	       (p && put_u64(skb, BLKCBT_A_BUDGET_BYTES, p->group->budget_bytes)) ||
	       put_u64(skb, BLKCBT_A_PRESERVED_BYTES, p ? atomic64_read(&p->bytes) : 0) ||
	       put_u64(skb, BLKCBT_A_PRESERVES, atomic64_read(&d->preserves)) ||
	       put_u64(skb, BLKCBT_A_DOWNGRADES, d->downgrades + off) ||
	       put_u64(skb, BLKCBT_A_HELD, atomic64_read(&d->held)) ||
	       put_u64(skb, BLKCBT_A_HELD_MAX_NS, READ_ONCE(d->held_max_ns));
}

static int put_state(struct sk_buff *skb, struct blkcbt_disk *d)
{
	const struct blkcbt_map *cur = blkcbt_map_of(d->cur);
	const struct blkcbt_map *old = blkcbt_map_of(d->old);
	unsigned int granule_shift = d->granule_sector_shift + SECTOR_SHIFT;
	u64 size = (u64)d->nr_sectors << SECTOR_SHIFT;
	const struct blkcbt_preserve *p = rcu_dereference_protected(d->preserve,
						lockdep_is_held(&blkcbt_ctl_mutex));
	bool open = d->epoch.state == BLKCBT_EPOCH_OPEN;
	u64 fallbacks = d->fallbacks + atomic64_read(&cur->fallbacks) +
			(old ? atomic64_read(&old->fallbacks) : 0);
	u64 dirty = min(blkcbt_map_count(cur) << granule_shift, size);
	u64 in_open = open ? min(blkcbt_map_count(old) << granule_shift, size) : 0;

	return nla_put_u32(skb, BLKCBT_A_INDEX, d->index) ||
	       nla_put_u32(skb, BLKCBT_A_GRANULE_BYTES, 1u << granule_shift) ||
	       put_u64(skb, BLKCBT_A_SIZE_BYTES, size) ||
	       put_u64(skb, BLKCBT_A_EPOCH, d->epoch.last) ||
	       nla_put_u32(skb, BLKCBT_A_EPOCH_STATE, d->epoch.state) ||
	       put_u64(skb, BLKCBT_A_EPOCH_COMMITTED, d->epoch.committed) ||
	       put_u64(skb, BLKCBT_A_CUT_NS, d->cut_ns) ||
	       put_u64(skb, BLKCBT_A_DIRTY_BYTES, dirty) ||
	       put_u64(skb, BLKCBT_A_OPEN_BYTES, in_open) ||
	       put_u64(skb, BLKCBT_A_MAP_BYTES,
		       blkcbt_map_bytes(cur) + (old ? blkcbt_map_bytes(old) : 0) +
		       (p ? blkcbt_map_bytes(p->done) : 0)) ||
	       put_u64(skb, BLKCBT_A_MAP_FALLBACKS, fallbacks) ||
	       put_u64(skb, BLKCBT_A_PARKED, atomic64_read(&d->parked)) ||
	       put_u64(skb, BLKCBT_A_INFLIGHT, blkcbt_shim_count(d, 0) + blkcbt_shim_count(d, 1)) ||
	       put_preserve(skb, d);
}

static int put_store(struct sk_buff *skb, struct blkcbt_disk *d, bool brief)
{
	struct blkcbt_store_stats stats;
	char reason[BLKCBT_STORE_WHY_LEN];

	rcu_read_lock();
	blkcbt_store_stats(d, &stats);
	strscpy(reason, stats.reason, sizeof(reason));
	rcu_read_unlock();
	if (nla_put_u32(skb, BLKCBT_A_STORE_STATE, stats.state) ||
	    (reason[0] && nla_put_string(skb, BLKCBT_A_STORE_REASON, reason)))
		return -EMSGSIZE;
	if (brief || stats.state == BLKCBT_STORE_ID_NONE)
		return 0;
	return (d->store_verdict == BLKCBT_STORE_TRUSTED &&
		stats.state != BLKCBT_STORE_ID_AWAITED &&
		nla_put_flag(skb, BLKCBT_A_STORE_TRUSTED)) ||
	       put_u64(skb, BLKCBT_A_STORE_GENERATION, stats.generation) ||
	       put_u64(skb, BLKCBT_A_STORE_HOT, stats.hot) ||
	       put_u64(skb, BLKCBT_A_STORE_WRITES, stats.writes) ||
	       put_u64(skb, BLKCBT_A_STORE_PARKED, stats.parked) ||
	       put_u64(skb, BLKCBT_A_STORE_RISK_BYTES, stats.risk_bytes) ||
	       put_u64(skb, BLKCBT_A_STORE_MEMORY_BYTES, stats.memory_bytes);
}

/* A BLKCBT_A_DISK nest; @brief: what an event says, from any task context. */
static int put_disk_nest(struct sk_buff *skb, struct blkcbt_disk *d, bool brief)
{
	struct nlattr *nest = nla_nest_start(skb, BLKCBT_A_DISK);
	const char *reason = downgrade_reason(d);
	dev_t dev = disk_devt(d->gd);

	if (!nest)
		return -EMSGSIZE;
	if (nla_put_u32(skb, BLKCBT_A_MAJOR, MAJOR(dev)) ||
	    nla_put_u32(skb, BLKCBT_A_MINOR, MINOR(dev)) ||
	    nla_put_string(skb, BLKCBT_A_NAME, d->gd->disk_name) ||
	    put_u64(skb, BLKCBT_A_ID, d->id) ||
	    nla_put_u32(skb, BLKCBT_A_FLAGS, blkcbt_disk_flags(d)) ||
	    put_u64(skb, BLKCBT_A_ESCAPES, atomic64_read(&d->escapes)) ||
	    put_u64(skb, BLKCBT_A_LATE, atomic64_read(&d->late)) ||
	    put_u64(skb, BLKCBT_A_PASSTHROUGH, atomic64_read(&d->passthrough)) ||
	    (reason && nla_put_string(skb, BLKCBT_A_DOWNGRADE_REASON, reason)) ||
	    put_store(skb, d, brief) || (!brief && put_state(skb, d))) {
		nla_nest_cancel(skb, nest);
		return -EMSGSIZE;
	}
	nla_nest_end(skb, nest);
	return 0;
}

static struct sk_buff *new_reply(struct genl_info *info, u8 cmd, void **hdr)
{
	struct sk_buff *msg = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);

	if (!msg)
		return NULL;
	*hdr = genlmsg_put_reply(msg, info, &family, 0, cmd);
	if (*hdr)
		return msg;
	nlmsg_free(msg);
	return NULL;
}

static int finish_reply(struct genl_info *info, struct sk_buff *msg, void *hdr, int err)
{
	if (err) {
		nlmsg_free(msg);
		return -EMSGSIZE;
	}
	genlmsg_end(msg, hdr);
	return genlmsg_reply(msg, info);
}

/*
 * The reply to a command that has been done. It was made before, so that no
 * memory means that nothing was done. That it cannot be delivered is no error
 * of the command: whoever does not read his socket is told by ENOBUFS.
 */
static void finish_done(struct genl_info *info, struct sk_buff *msg, void *hdr, int err)
{
	WARN_ON_ONCE(finish_reply(info, msg, hdr, err) == -EMSGSIZE);
}

/**
 * blkcbt_genl_multicast() - send an event
 * @d: the disk it concerns
 * @event: what happened
 *
 * Context: may sleep. Nobody listening, or no memory: the event is dropped; the
 * statistics and flags of the disk stay.
 */
void blkcbt_genl_multicast(struct blkcbt_disk *d, enum blkcbt_event event)
{
	struct sk_buff *msg = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	void *hdr;

	if (!msg)
		return;
	hdr = genlmsg_put(msg, 0, 0, &family, 0, BLKCBT_CMD_EVENT);
	if (!hdr || nla_put_u32(msg, BLKCBT_A_EVENT, event) || put_disk_nest(msg, d, true)) {
		nlmsg_free(msg);
		return;
	}
	genlmsg_end(msg, hdr);
	genlmsg_multicast(&family, msg, 0, 0, GFP_KERNEL);
}

/*
 * Commands
 */

static int cmd_info(struct sk_buff *skb, struct genl_info *info)
{
	enum blkcbt_gate_mode mode;
	struct blkcbt_holds holds;
	struct sk_buff *msg;
	const char *reason;
	void *hdr;
	int err;

	msg = new_reply(info, BLKCBT_CMD_INFO, &hdr);
	if (!msg)
		return -ENOMEM;
	blkcbt_holds_get(&holds);
	mode = blkcbt_observe_mode(&reason);
	err = nla_put_string(msg, BLKCBT_A_MODULE_VERSION, BLKCBT_VERSION) ||
	      nla_put_u32(msg, BLKCBT_A_GATE_MODE, mode) ||
	      nla_put_u32(msg, BLKCBT_A_OBSERVERS, blkcbt_observers()) ||
	      nla_put(msg, BLKCBT_A_HOLDS, sizeof(holds), &holds) ||
	      (reason && nla_put_string(msg, BLKCBT_A_GATE_REASON, reason));
#ifdef BLKCBT_FAULTS
	err = err || nla_put_flag(msg, BLKCBT_A_FAULTS);
#endif
	return finish_reply(info, msg, hdr, err);
}

/* The store that a request names, with a reference of its file; none, unless @needed. */
static int get_store(struct genl_info *info, bool needed, struct blkcbt_store_ask *ask)
{
	struct nlattr **attrs = info->attrs;

	memset(ask, 0, sizeof(*ask));
	ask->hot_max = BLKCBT_STORE_HOT_DEFAULT;
	if (!attrs[BLKCBT_A_STORE_FD]) {
		if (needed || attrs[BLKCBT_A_IDENTITY] || attrs[BLKCBT_A_STORE_GENERATION] ||
		    attrs[BLKCBT_A_STORE_HOT_MAX])
			return say(info, "no store named: BLKCBT_A_STORE_FD is needed", -EINVAL);
		return 0;
	}
	if (!attrs[BLKCBT_A_IDENTITY] || !nla_len(attrs[BLKCBT_A_IDENTITY]))
		return say(info, "no identity: BLKCBT_A_IDENTITY is needed with a store", -EINVAL);
	nla_memcpy(ask->identity, attrs[BLKCBT_A_IDENTITY], sizeof(ask->identity));
	if (attrs[BLKCBT_A_STORE_GENERATION])
		ask->generation_min = nla_get_u64(attrs[BLKCBT_A_STORE_GENERATION]);
	if (attrs[BLKCBT_A_STORE_HOT_MAX])
		ask->hot_max = max(nla_get_u32(attrs[BLKCBT_A_STORE_HOT_MAX]), 4u);
	ask->file = fget(nla_get_u32(attrs[BLKCBT_A_STORE_FD]));
	if (!ask->file)
		return say(info, "BLKCBT_A_STORE_FD is no open file", -EBADF);
	return 0;
}

static void put_ask(struct blkcbt_store_ask *ask)
{
	if (ask->file)
		fput(ask->file);
}

static int cmd_attach(struct sk_buff *skb, struct genl_info *info)
{
	bool awaited = info->attrs[BLKCBT_A_STORE_AWAITED];
	u32 granule = BLKCBT_GRANULE_DEFAULT;
	char why[BLKCBT_WHY_LEN] = "";
	struct blkcbt_store_ask ask;
	struct blkcbt_disk *d;
	struct sk_buff *msg;
	dev_t dev;
	void *hdr;
	int err = admin(skb, info) ?: get_dev(skb, info, info->attrs, &dev);

	if (err)
		return err;
	if (info->attrs[BLKCBT_A_GRANULE_BYTES])
		granule = nla_get_u32(info->attrs[BLKCBT_A_GRANULE_BYTES]);
	err = get_store(info, false, &ask);
	if (err)
		return err;
	msg = new_reply(info, BLKCBT_CMD_ATTACH, &hdr);
	if (!msg) {
		put_ask(&ask);
		return -ENOMEM;
	}

	mutex_lock(&blkcbt_ctl_mutex);
	d = blkcbt_disk_attach(dev, granule, awaited || ask.file, ask.file ? &ask : NULL, why);
	if (IS_ERR(d)) {
		err = say_text(skb, info, why, PTR_ERR(d));
		nlmsg_free(msg);
	} else {
		finish_done(info, msg, hdr, put_disk_nest(msg, d, false));
		blkcbt_genl_multicast(d, BLKCBT_EVENT_ATTACHED);
	}
	mutex_unlock(&blkcbt_ctl_mutex);
	put_ask(&ask);
	return err;
}

static int cmd_store_format(struct sk_buff *skb, struct genl_info *info)
{
	u32 granule = BLKCBT_GRANULE_DEFAULT, extent = BLKCBT_STORE_EXTENT_DEFAULT;
	struct nlattr **attrs = info->attrs;
	char why[BLKCBT_WHY_LEN] = "";
	struct blkcbt_store_ask ask;
	dev_t dev;
	int err = admin(skb, info) ?: get_dev(skb, info, attrs, &dev) ?:
		  get_store(info, true, &ask);

	if (err)
		return err;
	if (attrs[BLKCBT_A_GRANULE_BYTES])
		granule = nla_get_u32(attrs[BLKCBT_A_GRANULE_BYTES]);
	extent = max(extent, granule);
	if (attrs[BLKCBT_A_STORE_EXTENT_BYTES])
		extent = nla_get_u32(attrs[BLKCBT_A_STORE_EXTENT_BYTES]);
	mutex_lock(&blkcbt_ctl_mutex);
	err = say_text(skb, info, why, blkcbt_store_format(dev, &ask, granule, extent, why));
	mutex_unlock(&blkcbt_ctl_mutex);
	put_ask(&ask);
	return err;
}

static int cmd_store_add(struct sk_buff *skb, struct genl_info *info)
{
	char why[BLKCBT_WHY_LEN] = "";
	struct blkcbt_store_ask ask;
	struct blkcbt_disk *d;
	struct sk_buff *msg;
	void *hdr;
	int err = admin(skb, info) ?: get_store(info, true, &ask);

	if (err)
		return err;
	msg = new_reply(info, BLKCBT_CMD_STORE_ADD, &hdr);
	if (!msg) {
		put_ask(&ask);
		return -ENOMEM;
	}
	mutex_lock(&blkcbt_ctl_mutex);
	d = get_disk_by(skb, info, info->attrs);
	err = IS_ERR(d) ? PTR_ERR(d) : say_text(skb, info, why, blkcbt_store_add(d, &ask, why));
	if (err)
		nlmsg_free(msg);
	else
		finish_done(info, msg, hdr, put_disk_nest(msg, d, false));
	mutex_unlock(&blkcbt_ctl_mutex);
	put_ask(&ask);
	return err;
}

static int cmd_store_drop(struct sk_buff *skb, struct genl_info *info)
{
	struct blkcbt_disk *d;
	int err = admin(skb, info);

	if (err)
		return err;
	mutex_lock(&blkcbt_ctl_mutex);
	d = get_disk_by(skb, info, info->attrs);
	if (IS_ERR(d)) {
		err = PTR_ERR(d);
	} else if (!d->awaits_store && !rcu_access_pointer(d->store)) {
		err = say(info, "the disk has no store, and awaits none", -ENOENT);
	} else {
		blkcbt_store_give_up(d);
		blkcbt_store_save(d, BLKCBT_STORE_SAVED_COUNT);
		blkcbt_store_remove(d);
	}
	mutex_unlock(&blkcbt_ctl_mutex);
	return err;
}

static int cmd_detach(struct sk_buff *skb, struct genl_info *info)
{
	char why[BLKCBT_WHY_LEN] = "";
	struct blkcbt_disk *d;
	int err = admin(skb, info);

	if (err)
		return err;
	mutex_lock(&blkcbt_ctl_mutex);
	d = get_disk_by(skb, info, info->attrs);
	if (IS_ERR(d)) {
		err = PTR_ERR(d);
	} else {
		/* For the event: the gendisk outlives the detach as long as @ref does. */
		percpu_ref_get(&d->ref);
		err = say_text(skb, info, why,
			       blkcbt_disk_detach(d, info->attrs[BLKCBT_A_FORCE], why));
		if (!err)
			blkcbt_genl_multicast(d, BLKCBT_EVENT_DETACHED);
		percpu_ref_put(&d->ref);
	}
	mutex_unlock(&blkcbt_ctl_mutex);
	return err;
}

static int cmd_get(struct sk_buff *skb, struct genl_info *info)
{
	struct blkcbt_disk *d;
	struct sk_buff *msg;
	void *hdr;
	int err;

	msg = new_reply(info, BLKCBT_CMD_GET, &hdr);
	if (!msg)
		return -ENOMEM;
	mutex_lock(&blkcbt_ctl_mutex);
	d = get_disk_by(skb, info, info->attrs);
	if (IS_ERR(d)) {
		err = PTR_ERR(d);
		nlmsg_free(msg);
	} else {
		err = finish_reply(info, msg, hdr, put_disk_nest(msg, d, false));
	}
	mutex_unlock(&blkcbt_ctl_mutex);
	return err;
}

static int dump_get(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct blkcbt_disk *d;
	long at = 0;

	mutex_lock(&blkcbt_ctl_mutex);
	cb->seq = blkcbt_disks_seq;
	list_for_each_entry(d, &blkcbt_disks, list) {
		void *hdr;

		if (at++ < cb->args[0])
			continue;
		hdr = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &family,
				  NLM_F_MULTI, BLKCBT_CMD_GET);
		if (!hdr)
			break;
		genl_dump_check_consistent(cb, hdr);
		if (put_disk_nest(skb, d, false)) {
			genlmsg_cancel(skb, hdr);
			break;
		}
		genlmsg_end(skb, hdr);
		cb->args[0] = at;
	}
	mutex_unlock(&blkcbt_ctl_mutex);
	return skb->len;
}

static int cmd_mark(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr **attrs = info->attrs;
	char why[BLKCBT_WHY_LEN] = "";
	u64 from = 0, to = U64_MAX;
	struct blkcbt_disk *d;
	int err = admin(skb, info);

	if (err)
		return err;
	if (attrs[BLKCBT_A_FROM_BYTES])
		from = nla_get_u64(attrs[BLKCBT_A_FROM_BYTES]);
	if (attrs[BLKCBT_A_TO_BYTES])
		to = nla_get_u64(attrs[BLKCBT_A_TO_BYTES]);
	mutex_lock(&blkcbt_ctl_mutex);
	d = get_disk_by(skb, info, attrs);
	if (IS_ERR(d))
		err = PTR_ERR(d);
	else
		err = say_text(skb, info, why, blkcbt_disk_mark_bytes(d, from, to, why));
	mutex_unlock(&blkcbt_ctl_mutex);
	return err;
}

/* One BLKCBT_A_DISK nest of a group. Under blkcbt_ctl_mutex. */
static int parse_item(struct sk_buff *skb, struct genl_info *info, struct nlattr *nest,
		      const struct nla_policy *policy, struct blkcbt_group_item *items,
		      unsigned int n)
{
	struct nlattr *attrs[BLKCBT_A_MAX + 1];
	struct blkcbt_disk *d;
	unsigned int i;
	int err;

	err = nla_parse_nested(attrs, BLKCBT_A_MAX, nest, policy, info->extack);
	if (err)
		return err;
	d = get_disk_by(skb, info, attrs);
	if (IS_ERR(d))
		return PTR_ERR(d);
	for (i = 0; i < n; i++) {
		char why[BLKCBT_WHY_LEN];

		if (items[i].disk != d)
			continue;
		snprintf(why, sizeof(why), "disk %s: named twice (name it once)",
			 d->gd->disk_name);
		return say_text(skb, info, why, -EINVAL);
	}
	items[n].disk = d;
	items[n].to_bytes = U64_MAX;
	if (attrs[BLKCBT_A_FROM_BYTES])
		items[n].from_bytes = nla_get_u64(attrs[BLKCBT_A_FROM_BYTES]);
	if (attrs[BLKCBT_A_TO_BYTES])
		items[n].to_bytes = nla_get_u64(attrs[BLKCBT_A_TO_BYTES]);
	return 0;
}

/**
 * struct group_command - a command that names disks
 * @cmd: the command
 * @replies: it has a reply, which is made ready before anything is done
 * @policy: of what is in the nest of a disk
 * @act: does it, for all disks or none, under blkcbt_ctl_mutex. @msg: where the
 *	reply goes. Returns 0, 1 if the reply had no room (which is a bug), or an
 *	error, of which it has said why.
 */
struct group_command {
	u8 cmd;
	bool replies;
	const struct nla_policy *policy;
	int (*act)(struct sk_buff *skb, struct genl_info *info, struct blkcbt_group_item *items,
		   unsigned int n, struct sk_buff *msg);
};

static int act_cut(struct sk_buff *skb, struct genl_info *info, struct blkcbt_group_item *items,
		   unsigned int n, struct sk_buff *msg)
{
	struct nlattr **attrs = info->attrs;
	char why[BLKCBT_WHY_LEN] = "";
	struct blkcbt_cut cut = {
		.epoch = nla_get_u64(attrs[BLKCBT_A_EPOCH]),
		.budget_bytes = BLKCBT_BUDGET_DEFAULT,
	};
	int err;

	if (attrs[BLKCBT_A_EPOCH_MODE])
		cut.mode = nla_get_u32(attrs[BLKCBT_A_EPOCH_MODE]);
	if (cut.mode > BLKCBT_MODE_SNAPSHOT)
		return say(info, "no such mode of an epoch (see enum blkcbt_epoch_mode)", -EINVAL);
	if (attrs[BLKCBT_A_BUDGET_BYTES]) {
		if (cut.mode == BLKCBT_MODE_FUZZY)
			return say(info, "a fuzzy epoch takes no budget (leave it out)",
				   -EINVAL);
		cut.budget_bytes = nla_get_u64(attrs[BLKCBT_A_BUDGET_BYTES]);
	}
	if (attrs[BLKCBT_A_HOLD_ID]) {
		cut.hold_id = nla_get_u64(attrs[BLKCBT_A_HOLD_ID]);
		if (!cut.hold_id)
			return say(info, "there is no hold 0 (HOLD gives the number)", -EINVAL);
	}
	err = blkcbt_group_cut(items, n, &cut, why);
	if (err)
		return say_text(skb, info, why, err);
	return put_u64(msg, BLKCBT_A_EPOCH, cut.epoch) ||
	       put_u64(msg, BLKCBT_A_CUT_NS, cut.cut_ns) ||
	       put_u64(msg, BLKCBT_A_HOLD_NS, cut.hold_ns) ? 1 : 0;
}

static int act_hold(struct sk_buff *skb, struct genl_info *info, struct blkcbt_group_item *items,
		    unsigned int n, struct sk_buff *msg)
{
	u32 deadline_ms = BLKCBT_HOLD_MS_DEFAULT;
	char why[BLKCBT_WHY_LEN] = "";
	u64 id;
	int err;

	if (info->attrs[BLKCBT_A_DEADLINE_MS])
		deadline_ms = nla_get_u32(info->attrs[BLKCBT_A_DEADLINE_MS]);
	if (!deadline_ms || deadline_ms > BLKCBT_HOLD_MS_MAX)
		return say(info, "a hold lasts from 1 to 5000 ms (ask for as much)", -EINVAL);
	err = blkcbt_hold_take(items, n, deadline_ms, info->snd_portid, &id, why);
	if (err)
		return say_text(skb, info, why, err);
	return put_u64(msg, BLKCBT_A_HOLD_ID, id) ? 1 : 0;
}

static int end_group(struct sk_buff *skb, struct genl_info *info, struct blkcbt_group_item *items,
		     unsigned int n, enum blkcbt_epoch_step step)
{
	char why[BLKCBT_WHY_LEN] = "";
	int err = blkcbt_group_end(items, n, nla_get_u64(info->attrs[BLKCBT_A_EPOCH]), step, why);

	return say_text(skb, info, why, err);
}

static int act_commit(struct sk_buff *skb, struct genl_info *info, struct blkcbt_group_item *items,
		      unsigned int n, struct sk_buff *msg)
{
	return end_group(skb, info, items, n, BLKCBT_STEP_COMMIT);
}

static int act_abort(struct sk_buff *skb, struct genl_info *info, struct blkcbt_group_item *items,
		     unsigned int n, struct sk_buff *msg)
{
	return end_group(skb, info, items, n, BLKCBT_STEP_ABORT);
}

static const struct group_command cut_command = { BLKCBT_CMD_CUT, true, dev_policy, act_cut };
static const struct group_command hold_command = { BLKCBT_CMD_HOLD, true, dev_policy, act_hold };
static const struct group_command commit_command = {
	BLKCBT_CMD_COMMIT, false, range_policy, act_commit
};

static const struct group_command abort_command = {
	BLKCBT_CMD_ABORT, false, dev_policy, act_abort
};

/* A command that names disks. */
static int on_group(struct sk_buff *skb, struct genl_info *info, const struct group_command *c)
{
	struct blkcbt_group_item *items;
	struct sk_buff *msg = NULL;
	struct nlattr *attr;
	unsigned int n = 0;
	int rem, err = 0;
	void *hdr;

	if (c->cmd != BLKCBT_CMD_HOLD && !info->attrs[BLKCBT_A_EPOCH])
		return say(info, "no epoch named: BLKCBT_A_EPOCH is needed", -EINVAL);
	if (c->replies) {
		msg = new_reply(info, c->cmd, &hdr);
		if (!msg)
			return -ENOMEM;
	}
	items = kvcalloc(BLKCBT_GROUP_MAX, sizeof(*items), GFP_KERNEL);
	if (!items) {
		nlmsg_free(msg);
		return -ENOMEM;
	}

	mutex_lock(&blkcbt_ctl_mutex);
	nlmsg_for_each_attr(attr, info->nlhdr, GENL_HDRLEN, rem) {
		if (nla_type(attr) != BLKCBT_A_DISK)
			continue;
		if (n == BLKCBT_GROUP_MAX)
			err = say(info, "too many disks in one command (256 is the most)", -E2BIG);
		else
			err = parse_item(skb, info, attr, c->policy, items, n);
		if (err)
			goto out;
		n++;
	}
	if (!n) {
		err = say(info, "no disk named: BLKCBT_A_DISK is needed", -EINVAL);
		goto out;
	}
	err = c->act(skb, info, items, n, msg);
	if (err >= 0 && msg) {
		finish_done(info, msg, hdr, err);
		msg = NULL;
		err = 0;
	}
out:
	mutex_unlock(&blkcbt_ctl_mutex);
	nlmsg_free(msg);
	kvfree(items);
	return err;
}

static int cmd_cut(struct sk_buff *skb, struct genl_info *info)
{
	return admin(skb, info) ?: on_group(skb, info, &cut_command);
}

static int cmd_commit(struct sk_buff *skb, struct genl_info *info)
{
	return admin(skb, info) ?: on_group(skb, info, &commit_command);
}

static int cmd_abort(struct sk_buff *skb, struct genl_info *info)
{
	return admin(skb, info) ?: on_group(skb, info, &abort_command);
}

static int cmd_hold(struct sk_buff *skb, struct genl_info *info)
{
	return admin(skb, info) ?: on_group(skb, info, &hold_command);
}

static int cmd_release(struct sk_buff *skb, struct genl_info *info)
{
	int err = admin(skb, info);

	if (err)
		return err;
	if (!info->attrs[BLKCBT_A_HOLD_ID])
		return say(info, "no hold named: BLKCBT_A_HOLD_ID is needed", -EINVAL);
	err = blkcbt_hold_release(nla_get_u64(info->attrs[BLKCBT_A_HOLD_ID]));
	return say(info, "the hold was over before (by its deadline, or its owner is gone)", err);
}

/* The owner of a hold has closed its socket, or died. */
static int on_netlink(struct notifier_block *nb, unsigned long event, void *data)
{
	const struct netlink_notify *notify = data;

	if (event == NETLINK_URELEASE && notify->protocol == NETLINK_GENERIC &&
	    net_eq(notify->net, &init_net))
		blkcbt_hold_owner_gone(notify->portid);
	return NOTIFY_DONE;
}

static struct notifier_block netlink_nb = {
	.notifier_call = on_netlink,
};

#define OP(_cmd, _doit, _policy) \
	{ .cmd = BLKCBT_CMD_##_cmd, .doit = _doit, .policy = _policy, .maxattr = BLKCBT_A_MAX }

static const struct genl_ops ops[] = {
	OP(INFO, cmd_info, no_policy),
	OP(ATTACH, cmd_attach, attach_policy),
	OP(DETACH, cmd_detach, detach_policy),
	{
		.cmd = BLKCBT_CMD_GET, .doit = cmd_get, .dumpit = dump_get,
		.policy = dev_policy, .maxattr = BLKCBT_A_MAX,
	},
	OP(CUT, cmd_cut, cut_policy),
	OP(COMMIT, cmd_commit, commit_policy),
	OP(ABORT, cmd_abort, group_policy),
	OP(MARK, cmd_mark, range_policy),
	OP(HOLD, cmd_hold, hold_policy),
	OP(RELEASE, cmd_release, release_policy),
	OP(STORE_FORMAT, cmd_store_format, store_format_policy),
	OP(STORE_ADD, cmd_store_add, store_add_policy),
	OP(STORE_DROP, cmd_store_drop, dev_policy),
};

static const struct genl_multicast_group groups[] = {
	{ .name = BLKCBT_MCGRP_EVENTS },
};

static struct genl_family family = {
	.name		= BLKCBT_GENL_NAME,
	.version	= BLKCBT_GENL_VERSION,
	.maxattr	= BLKCBT_A_MAX,
	.module		= THIS_MODULE,
	.ops		= ops,
	.n_ops		= ARRAY_SIZE(ops),
	.resv_start_op	= BLKCBT_CMD_UNSPEC + 1,
	.mcgrps		= groups,
	.n_mcgrps	= ARRAY_SIZE(groups),
};

/**
 * blkcbt_genl_init() - begin to take commands
 *
 * Return: 0 or an error.
 */
int blkcbt_genl_init(void)
{
	int err = netlink_register_notifier(&netlink_nb);

	if (err)
		return err;
	err = genl_register_family(&family);
	if (err)
		netlink_unregister_notifier(&netlink_nb);
	return err;
}

/**
 * blkcbt_genl_exit() - take no more commands; none is being handled any more
 */
void blkcbt_genl_exit(void)
{
	genl_unregister_family(&family);
	netlink_unregister_notifier(&netlink_nb);
}
