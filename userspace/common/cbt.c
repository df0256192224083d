/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cbt: typed calls to the kernel module over generic netlink, and its events.
 * Called by the agent and the command line, from one thread for each struct cbt.
 * A call waits for the kernel's answer for CALL_SECONDS at most; what comes later than that is
 * recognised by its sequence number and skipped.
 *
 * Errors are taken from the kernel's own message: libnl's numbers fold several errno into one.
 */
#include "cbt.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netlink/errno.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/time.h>

#define CALL_SECONDS 5
#define STORE_SECONDS 60
#define MESSAGE_BYTES 32768u /* 256 disks with their ranges fit into half of it */
#define LIST_TRIES 5

struct cbt {
	struct nl_sock *socket;
	int family;
	char error[256];
};

/* One call under way. */
struct call {
	struct cbt *cbt;
	uint32_t sequence;
	bool over;
	int result;
	bool interrupted; /* the list changed while it was read */
	int (*reply)(struct nlattr **attrs, struct nlmsghdr *header, void *user);
	void *user;
	uint32_t deadline_ms; /* of a hold */
	unsigned seconds;     /* for the answer; 0: CALL_SECONDS */
};

static int set_error(struct cbt *cbt, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int set_error(struct cbt *cbt, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(cbt->error, sizeof(cbt->error), format, arguments);
	va_end(arguments);
	return error;
}

const char *cbt_error(const struct cbt *cbt)
{
	return cbt->error;
}

/* For what fails on this side of the kernel. */
static int nl_failed(struct cbt *cbt, int nl_error)
{
	switch (-nl_error) {
	case NLE_AGAIN:
		return set_error(cbt, -ETIMEDOUT, "the kernel module did not answer in time");
	case NLE_NOMEM:
		return set_error(cbt, -ENOMEM, "out of memory");
	case NLE_MSGSIZE:
	case NLE_RANGE:
		return set_error(cbt, -EMSGSIZE, "the request does not fit into a message");
	case NLE_PERM:
		return set_error(cbt, -EPERM, "not permitted (CAP_SYS_ADMIN is needed)");
	default:
		return set_error(cbt, -EIO, "netlink: %s", nl_geterror(nl_error));
	}
}

/* The extended acknowledgement: attributes behind @skip bytes of the payload. */
static void take_text(struct cbt *cbt, struct nlmsghdr *header, size_t skip)
{
	struct nlattr *attr;
	int rest;

	if (!(header->nlmsg_flags & NLM_F_ACK_TLVS) ||
	    (size_t)nlmsg_datalen(header) < NLMSG_ALIGN(skip))
		return;
	attr = (struct nlattr *)((char *)nlmsg_data(header) + NLMSG_ALIGN(skip));
	rest = nlmsg_datalen(header) - (int)NLMSG_ALIGN(skip);
	for (; nla_ok(attr, rest); attr = nla_next(attr, &rest)) {
		if (nla_type(attr) == NLMSGERR_ATTR_MSG && nla_len(attr) > 0)
			set_error(cbt, 0, "%.*s", nla_len(attr), (const char *)nla_data(attr));
	}
}

static void take_result(struct call *call, int error)
{
	call->over = true;
	call->result = error;
	if (error && !call->cbt->error[0])
		set_error(call->cbt, 0, "%s", strerror(-error));
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *message, void *user)
{
	/* libnl passes the payload; the header stands before it, as the kernel sent it. */
	struct nlmsghdr *header = (struct nlmsghdr *)(void *)((char *)message - NLMSG_HDRLEN);
	struct call *call = user;
	size_t skip = sizeof(*message);

	(void)from;
	if (header->nlmsg_seq != call->sequence)
		return NL_SKIP;
	/* The request is sent back behind the error, unless it was capped. */
	if (!(header->nlmsg_flags & NLM_F_CAPPED) && message->msg.nlmsg_len >= NLMSG_HDRLEN)
		skip += message->msg.nlmsg_len - NLMSG_HDRLEN;
	take_text(call->cbt, header, skip);
	take_result(call, message->error);
	return NL_STOP;
}

static int on_ack(struct nl_msg *message, void *user)
{
	(void)message;
	take_result(user, 0);
	return NL_STOP;
}

/* The end of a list; it carries an error code of its own. */
static int on_finish(struct nl_msg *message, void *user)
{
	struct nlmsghdr *header = nlmsg_hdr(message);
	struct call *call = user;
	int error = 0;

	if ((size_t)nlmsg_datalen(header) >= sizeof(error))
		memcpy(&error, nlmsg_data(header), sizeof(error));
	if (error < 0)
		take_text(call->cbt, header, sizeof(error));
	take_result(call, error < 0 ? error : 0);
	return NL_STOP;
}

static int on_reply(struct nl_msg *message, void *user)
{
	struct nlattr *attrs[BLKCBT_A_MAX + 1];
	struct call *call = user;
	int error;

	if (!call->reply)
		return NL_OK;
	error = genlmsg_parse(nlmsg_hdr(message), 0, attrs, BLKCBT_A_MAX, NULL);
	error = error < 0 ? -EPROTO : call->reply(attrs, nlmsg_hdr(message), call->user);
	if (!error)
		return NL_OK;
	set_error(call->cbt, 0, "the kernel module's answer makes no sense (is it of another "
		  "release?)");
	take_result(call, error);
	return NL_STOP;
}

/* An answer to a call that timed out is not ours. */
static int on_sequence(struct nl_msg *message, void *user)
{
	const struct call *call = user;

	return nlmsg_hdr(message)->nlmsg_seq == call->sequence ? NL_OK : NL_SKIP;
}

static int on_interrupted(struct nl_msg *message, void *user)
{
	struct call *call = user;

	(void)message;
	call->interrupted = true;
	return NL_OK;
}

static int wait_answer(struct call *call)
{
	uint64_t deadline = util_now_ms() + (call->seconds ? call->seconds : CALL_SECONDS) * 1000u;
	struct nl_cb *callbacks = nl_cb_alloc(NL_CB_DEFAULT);
	int error = 0;

	if (!callbacks)
		return nl_failed(call->cbt, -NLE_NOMEM);
	nl_cb_err(callbacks, NL_CB_CUSTOM, on_error, call);
	nl_cb_set(callbacks, NL_CB_ACK, NL_CB_CUSTOM, on_ack, call);
	nl_cb_set(callbacks, NL_CB_FINISH, NL_CB_CUSTOM, on_finish, call);
	nl_cb_set(callbacks, NL_CB_VALID, NL_CB_CUSTOM, on_reply, call);
	nl_cb_set(callbacks, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, on_sequence, call);
	nl_cb_set(callbacks, NL_CB_DUMP_INTR, NL_CB_CUSTOM, on_interrupted, call);
	while (!call->over && error >= 0) {
		/* The socket's receive timeout bounds one wait, this all of them. */
		error = nl_recvmsgs(call->cbt->socket, callbacks);
		if (error == -NLE_AGAIN && util_now_ms() < deadline)
			error = 0;
		else if (error >= 0 && !call->over && util_now_ms() >= deadline)
			error = -NLE_AGAIN;
	}
	nl_cb_put(callbacks);
	if (call->over)
		return call->result;
	return nl_failed(call->cbt, error);
}

static struct nl_msg *new_request(struct cbt *cbt, uint8_t command, int flags)
{
	struct nl_msg *message = nlmsg_alloc_size(MESSAGE_BYTES);

	cbt->error[0] = '\0';
	if (message && !genlmsg_put(message, NL_AUTO_PORT, NL_AUTO_SEQ, cbt->family, 0, flags,
				    command, BLKCBT_GENL_VERSION)) {
		nlmsg_free(message);
		message = NULL;
	}
	return message;
}

/* Send @message (freed here; NULL: no memory; @bad: it could not be filled) and wait. */
static int call_kernel(struct call *call, struct nl_msg *message, int bad)
{
	int error;

	if (!message)
		return nl_failed(call->cbt, -NLE_NOMEM);
	if (bad < 0) {
		nlmsg_free(message);
		return nl_failed(call->cbt, bad);
	}
	error = nl_send_auto(call->cbt->socket, message);
	call->sequence = nlmsg_hdr(message)->nlmsg_seq;
	nlmsg_free(message);
	return error < 0 ? nl_failed(call->cbt, error) : wait_answer(call);
}

/* Attributes. */

static void get_u32(struct nlattr **attrs, int type, uint32_t *value)
{
	if (attrs[type] && nla_len(attrs[type]) == sizeof(*value))
		*value = nla_get_u32(attrs[type]);
}

static void get_u64(struct nlattr **attrs, int type, uint64_t *value)
{
	if (attrs[type] && nla_len(attrs[type]) == sizeof(*value))
		*value = nla_get_u64(attrs[type]);
}

static void get_text(struct nlattr **attrs, int type, char *out, size_t out_bytes)
{
	if (attrs[type])
		snprintf(out, out_bytes, "%.*s", nla_len(attrs[type]),
			 (const char *)nla_data(attrs[type]));
}

static int get_disk(struct nlattr *nest, struct cbt_disk *disk)
{
	struct nlattr *attrs[BLKCBT_A_MAX + 1];
	uint32_t disk_major = 0, disk_minor = 0;

	*disk = (struct cbt_disk){ 0 };
	if (nla_parse_nested(attrs, BLKCBT_A_MAX, nest, NULL) < 0 || !attrs[BLKCBT_A_MAJOR] ||
	    !attrs[BLKCBT_A_MINOR])
		return -EPROTO;
	get_u32(attrs, BLKCBT_A_MAJOR, &disk_major);
	get_u32(attrs, BLKCBT_A_MINOR, &disk_minor);
	disk->dev = makedev(disk_major, disk_minor);
	get_text(attrs, BLKCBT_A_NAME, disk->name, sizeof(disk->name));
	get_u32(attrs, BLKCBT_A_INDEX, &disk->index);
	get_u32(attrs, BLKCBT_A_GRANULE_BYTES, &disk->granule_bytes);
	get_u32(attrs, BLKCBT_A_FLAGS, &disk->flags);
	get_u32(attrs, BLKCBT_A_EPOCH_STATE, &disk->epoch_state);
	get_u64(attrs, BLKCBT_A_ID, &disk->id);
	get_u64(attrs, BLKCBT_A_SIZE_BYTES, &disk->size_bytes);
	get_u64(attrs, BLKCBT_A_EPOCH, &disk->epoch);
	get_u64(attrs, BLKCBT_A_EPOCH_COMMITTED, &disk->epoch_committed);
	get_u64(attrs, BLKCBT_A_CUT_NS, &disk->cut_ns);
	get_u64(attrs, BLKCBT_A_DIRTY_BYTES, &disk->dirty_bytes);
	get_u64(attrs, BLKCBT_A_OPEN_BYTES, &disk->open_bytes);
	get_u64(attrs, BLKCBT_A_MAP_BYTES, &disk->map_bytes);
	get_u64(attrs, BLKCBT_A_MAP_FALLBACKS, &disk->map_fallbacks);
	get_u64(attrs, BLKCBT_A_ESCAPES, &disk->escapes);
	get_u64(attrs, BLKCBT_A_LATE, &disk->late);
	get_u64(attrs, BLKCBT_A_PASSTHROUGH, &disk->passthrough);
	get_u64(attrs, BLKCBT_A_PARKED, &disk->parked);
	get_u64(attrs, BLKCBT_A_INFLIGHT, &disk->inflight);
	get_u32(attrs, BLKCBT_A_EPOCH_MODE, &disk->epoch_mode);
	get_u64(attrs, BLKCBT_A_BUDGET_BYTES, &disk->budget_bytes);
	get_u64(attrs, BLKCBT_A_PRESERVED_BYTES, &disk->preserved_bytes);
	get_u64(attrs, BLKCBT_A_PRESERVES, &disk->preserves);
	get_u64(attrs, BLKCBT_A_DOWNGRADES, &disk->downgrades);
	get_u64(attrs, BLKCBT_A_HELD, &disk->held);
	get_u64(attrs, BLKCBT_A_HELD_MAX_NS, &disk->held_max_ns);
	get_text(attrs, BLKCBT_A_DOWNGRADE_REASON, disk->downgrade_reason,
		 sizeof(disk->downgrade_reason));
	get_u32(attrs, BLKCBT_A_STORE_STATE, &disk->store_state);
	disk->store_trusted = attrs[BLKCBT_A_STORE_TRUSTED] != NULL;
	get_text(attrs, BLKCBT_A_STORE_REASON, disk->store_reason, sizeof(disk->store_reason));
	get_u64(attrs, BLKCBT_A_STORE_GENERATION, &disk->store_generation);
	get_u64(attrs, BLKCBT_A_STORE_HOT, &disk->store_hot);
	get_u64(attrs, BLKCBT_A_STORE_WRITES, &disk->store_writes);
	get_u64(attrs, BLKCBT_A_STORE_PARKED, &disk->store_parked);
	disk->store_risk_bytes = disk->size_bytes;
	get_u64(attrs, BLKCBT_A_STORE_RISK_BYTES, &disk->store_risk_bytes);
	get_u64(attrs, BLKCBT_A_STORE_MEMORY_BYTES, &disk->store_memory_bytes);
	return 0;
}

/* The put functions return 0 or a negative libnl error; the first one is kept. */
static int put_dev(struct nl_msg *message, dev_t dev)
{
	int error = nla_put_u32(message, BLKCBT_A_MAJOR, major(dev));

	return error < 0 ? error : nla_put_u32(message, BLKCBT_A_MINOR, minor(dev));
}

static int put_store(struct nl_msg *message, const struct cbt_store *store)
{
	int error;

	if (store->fd < 0)
		return nla_put_flag(message, BLKCBT_A_STORE_AWAITED);
	error = nla_put_u32(message, BLKCBT_A_STORE_FD, (uint32_t)store->fd);
	if (error >= 0)
		error = nla_put(message, BLKCBT_A_IDENTITY, (int)strlen(store->identity), store->identity);
	if (error >= 0 && store->generation_min)
		error = nla_put_u64(message, BLKCBT_A_STORE_GENERATION, store->generation_min);
	return error;
}

static int put_range(struct nl_msg *message, const struct cbt_range *range)
{
	int error = put_dev(message, range->dev);

	if (error >= 0 && (range->from_bytes || range->to_bytes))
		error = nla_put_u64(message, BLKCBT_A_FROM_BYTES, range->from_bytes);
	if (error >= 0 && range->to_bytes)
		error = nla_put_u64(message, BLKCBT_A_TO_BYTES, range->to_bytes);
	return error;
}

static int put_disk_nest(struct nl_msg *message, const struct cbt_range *range)
{
	struct nlattr *nest = nla_nest_start(message, BLKCBT_A_DISK);
	int error;

	if (!nest)
		return -NLE_MSGSIZE;
	error = put_range(message, range);
	if (error >= 0)
		error = nla_nest_end(message, nest);
	return error;
}

/* Opening. */

static int new_socket(struct cbt **out)
{
	struct timeval timeout = { .tv_sec = CALL_SECONDS };
	struct cbt *cbt = calloc(1, sizeof(*cbt));
	int one = 1;
	int error, fd;

	if (!cbt)
		return -ENOMEM;
	cbt->socket = nl_socket_alloc();
	if (!cbt->socket) {
		free(cbt);
		return -ENOMEM;
	}
	error = genl_connect(cbt->socket);
	if (error < 0) {
		error = nl_failed(cbt, error);
		cbt_close(cbt);
		return error;
	}
	fd = nl_socket_get_fd(cbt->socket);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout))) {
		error = -errno;
		cbt_close(cbt);
		return error;
	}
	if (setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one)))
		log_debug("netlink: no texts with errors: %s", strerror(errno));
	cbt->family = genl_ctrl_resolve(cbt->socket, BLKCBT_GENL_NAME);
	if (cbt->family < 0) {
		error = cbt->family == -NLE_OBJ_NOTFOUND ? -ENOENT : nl_failed(cbt, cbt->family);
		cbt_close(cbt);
		return error;
	}
	*out = cbt;
	return 0;
}

int cbt_open(struct cbt **cbt)
{
	return new_socket(cbt);
}

void cbt_close(struct cbt *cbt)
{
	if (!cbt)
		return;
	nl_socket_free(cbt->socket);
	free(cbt);
}

const char *cbt_mode_name(uint32_t gate_mode)
{
	static const char *const names[] = {
		[BLKCBT_GATE_FULL] = "full",
		[BLKCBT_GATE_AUDIT_ONLY] = "audit-only",
		[BLKCBT_GATE_UNAUDITED] = "unaudited",
		[BLKCBT_GATE_PARTIAL] = "partial",
	};

	return gate_mode < sizeof(names) / sizeof(names[0]) ? names[gate_mode] : "degraded";
}

/* Calls. */

static int reply_info(struct nlattr **attrs, struct nlmsghdr *header, void *user)
{
	struct cbt_info *info = user;

	(void)header;
	get_text(attrs, BLKCBT_A_MODULE_VERSION, info->version, sizeof(info->version));
	get_u32(attrs, BLKCBT_A_GATE_MODE, &info->gate_mode);
	get_u32(attrs, BLKCBT_A_OBSERVERS, &info->observers);
	get_text(attrs, BLKCBT_A_GATE_REASON, info->gate_reason, sizeof(info->gate_reason));
	info->faults = attrs[BLKCBT_A_FAULTS] != NULL;
	if (attrs[BLKCBT_A_HOLDS] && (size_t)nla_len(attrs[BLKCBT_A_HOLDS]) >= sizeof(info->holds))
		memcpy(&info->holds, nla_data(attrs[BLKCBT_A_HOLDS]), sizeof(info->holds));
	return 0;
}

int cbt_get_info(struct cbt *cbt, struct cbt_info *info)
{
	struct call call = { .cbt = cbt, .reply = reply_info, .user = info };

	*info = (struct cbt_info){ 0 };
	return call_kernel(&call, new_request(cbt, BLKCBT_CMD_INFO, 0), 0);
}

static int reply_disk(struct nlattr **attrs, struct nlmsghdr *header, void *user)
{
	(void)header;
	return attrs[BLKCBT_A_DISK] ? get_disk(attrs[BLKCBT_A_DISK], user) : -EPROTO;
}

/* A request that names a disk and, perhaps, its granule and its store. */
static int call_disk(struct call *call, uint8_t command, dev_t dev, uint32_t granule_bytes,
		     const struct cbt_store *store)
{
	struct nl_msg *message = new_request(call->cbt, command, 0);
	int bad = message ? put_dev(message, dev) : 0;

	if (store)
		call->seconds = STORE_SECONDS;
	if (message && bad >= 0 && granule_bytes)
		bad = nla_put_u32(message, BLKCBT_A_GRANULE_BYTES, granule_bytes);
	if (message && bad >= 0 && store)
		bad = put_store(message, store);
	return call_kernel(call, message, bad);
}

int cbt_attach(struct cbt *cbt, dev_t dev, uint32_t granule_bytes, const struct cbt_store *store,
	       struct cbt_disk *disk)
{
	struct call call = { .cbt = cbt, .reply = reply_disk, .user = disk };

	*disk = (struct cbt_disk){ 0 };
	return call_disk(&call, BLKCBT_CMD_ATTACH, dev, granule_bytes, store);
}

int cbt_store_format(struct cbt *cbt, dev_t dev, const struct cbt_store *store, uint32_t granule_bytes)
{
	struct call call = { .cbt = cbt };

	return call_disk(&call, BLKCBT_CMD_STORE_FORMAT, dev, granule_bytes, store);
}

int cbt_store_add(struct cbt *cbt, dev_t dev, const struct cbt_store *store, struct cbt_disk *disk)
{
	struct call call = { .cbt = cbt, .reply = reply_disk, .user = disk };

	*disk = (struct cbt_disk){ 0 };
	return call_disk(&call, BLKCBT_CMD_STORE_ADD, dev, 0, store);
}

int cbt_store_drop(struct cbt *cbt, dev_t dev)
{
	struct call call = { .cbt = cbt, .seconds = STORE_SECONDS };

	return call_disk(&call, BLKCBT_CMD_STORE_DROP, dev, 0, NULL);
}

const char *cbt_store_state_name(uint32_t state)
{
	static const char *const names[] = {
		[BLKCBT_STORE_ID_NONE] = "none",
		[BLKCBT_STORE_ID_AWAITED] = "awaited",
		[BLKCBT_STORE_ID_ACTIVE] = "active",
		[BLKCBT_STORE_ID_FAILED] = "failed",
	};

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown";
}

int cbt_detach(struct cbt *cbt, dev_t dev, bool force)
{
	struct call call = { .cbt = cbt, .seconds = STORE_SECONDS }; /* its store is saved */
	struct nl_msg *message = new_request(cbt, BLKCBT_CMD_DETACH, 0);
	int bad = message ? put_dev(message, dev) : 0;

	if (message && bad >= 0 && force)
		bad = nla_put_flag(message, BLKCBT_A_FORCE);
	return call_kernel(&call, message, bad);
}

int cbt_get(struct cbt *cbt, dev_t dev, struct cbt_disk *disk)
{
	struct call call = { .cbt = cbt, .reply = reply_disk, .user = disk };
	struct nl_msg *message = new_request(cbt, BLKCBT_CMD_GET, 0);
	int bad = message ? put_dev(message, dev) : 0;

	*disk = (struct cbt_disk){ 0 };
	return call_kernel(&call, message, bad);
}

struct disk_list {
	struct cbt_disk *disks;
	size_t count, room;
};

/* A message of the list may hold several disks. */
static int reply_list(struct nlattr **attrs, struct nlmsghdr *header, void *user)
{
	struct disk_list *list = user;
	struct nlattr *attr;
	int rest;

	(void)attrs;
	nlmsg_for_each_attr(attr, header, GENL_HDRLEN, rest) {
		int error;

		if (nla_type(attr) != BLKCBT_A_DISK)
			continue;
		if (list->count == list->room) {
			size_t room = list->room ? list->room * 2 : 16;
			struct cbt_disk *disks = reallocarray(list->disks, room, sizeof(*disks));

			if (!disks)
				return -ENOMEM;
			list->disks = disks;
			list->room = room;
		}
		error = get_disk(attr, &list->disks[list->count]);
		if (error)
			return error;
		list->count++;
	}
	return 0;
}

int cbt_list(struct cbt *cbt, struct cbt_disk **disks, size_t *count)
{
	*disks = NULL;
	*count = 0;
	for (int i = 0; i < LIST_TRIES; i++) {
		struct disk_list list = { 0 };
		struct call call = { .cbt = cbt, .reply = reply_list, .user = &list };
		int error = call_kernel(&call, new_request(cbt, BLKCBT_CMD_GET, NLM_F_DUMP), 0);

		if (!error && !call.interrupted) {
			*disks = list.disks;
			*count = list.count;
			return 0;
		}
		free(list.disks);
		if (error)
			return error;
	}
	return set_error(cbt, -EAGAIN, "the list of disks kept changing while it was read");
}

static int reply_cut(struct nlattr **attrs, struct nlmsghdr *header, void *user)
{
	struct cbt_cut *cut = user;

	(void)header;
	get_u64(attrs, BLKCBT_A_CUT_NS, &cut->cut_ns);
	get_u64(attrs, BLKCBT_A_HOLD_NS, &cut->hold_ns);
	return 0;
}

/* What a cut says beyond its epoch and disks. A fuzzy one says nothing: that is the default. */
static int put_cut(struct nl_msg *message, const struct cbt_cut *cut)
{
	int error = 0;

	if (cut->mode != BLKCBT_MODE_FUZZY)
		error = nla_put_u32(message, BLKCBT_A_EPOCH_MODE, cut->mode);
	if (error >= 0 && cut->mode != BLKCBT_MODE_FUZZY && cut->budget_bytes)
		error = nla_put_u64(message, BLKCBT_A_BUDGET_BYTES, cut->budget_bytes);
	if (error >= 0 && cut->hold_id)
		error = nla_put_u64(message, BLKCBT_A_HOLD_ID, cut->hold_id);
	return error;
}

/* CUT, COMMIT, ABORT (an epoch and its disks) and HOLD (@epoch 0: disks alone). */
static int call_group(struct call *call, uint8_t command, uint64_t epoch,
		      const struct cbt_range *ranges, const dev_t *devs, size_t count)
{
	struct nl_msg *message = new_request(call->cbt, command, 0);
	int bad = message && epoch ? nla_put_u64(message, BLKCBT_A_EPOCH, epoch) : 0;

	if (message && bad >= 0 && command == BLKCBT_CMD_CUT)
		bad = put_cut(message, call->user);
	if (message && bad >= 0 && command == BLKCBT_CMD_HOLD && call->deadline_ms)
		bad = nla_put_u32(message, BLKCBT_A_DEADLINE_MS, call->deadline_ms);
	for (size_t i = 0; message && bad >= 0 && i < count; i++) {
		struct cbt_range whole = { .dev = devs ? devs[i] : 0 };

		bad = put_disk_nest(message, ranges ? &ranges[i] : &whole);
	}
	return call_kernel(call, message, bad);
}

int cbt_cut(struct cbt *cbt, struct cbt_cut *cut, const dev_t *devs, size_t count)
{
	struct call call = { .cbt = cbt, .reply = reply_cut, .user = cut };

	cut->cut_ns = cut->hold_ns = 0;
	return call_group(&call, BLKCBT_CMD_CUT, cut->epoch, NULL, devs, count);
}

static int reply_hold(struct nlattr **attrs, struct nlmsghdr *header, void *user)
{
	(void)header;
	get_u64(attrs, BLKCBT_A_HOLD_ID, user);
	return 0;
}

int cbt_hold(struct cbt *cbt, const dev_t *devs, size_t count, uint32_t deadline_ms, uint64_t *hold_id)
{
	struct call call = { .cbt = cbt,
			     .reply = reply_hold,
			     .user = hold_id,
			     .deadline_ms = deadline_ms };

	*hold_id = 0;
	return call_group(&call, BLKCBT_CMD_HOLD, 0, NULL, devs, count);
}

int cbt_release_hold(struct cbt *cbt, uint64_t hold_id)
{
	struct call call = { .cbt = cbt };
	struct nl_msg *message = new_request(cbt, BLKCBT_CMD_RELEASE, 0);

	return call_kernel(&call, message,
			   message ? nla_put_u64(message, BLKCBT_A_HOLD_ID, hold_id) : 0);
}

uint64_t cbt_holds_quantile_ns(const struct blkcbt_holds *holds, unsigned per_mille)
{
	const size_t last = sizeof(holds->bucket) / sizeof(holds->bucket[0]) - 1;
	uint64_t sum = 0, total = 0;

	for (size_t i = 0; i <= last; i++)
		total += holds->bucket[i];
	if (!total)
		return 0;
	for (size_t i = 0; i < last; i++) {
		uint64_t end = 2ull << i;

		sum += holds->bucket[i];
		if (sum * 1000 >= total * per_mille)
			return holds->max_ns && holds->max_ns < end ? holds->max_ns : end;
	}
	return holds->max_ns;
}

int cbt_commit(struct cbt *cbt, uint64_t epoch, const struct cbt_range *ranges, size_t count)
{
	struct call call = { .cbt = cbt };

	return call_group(&call, BLKCBT_CMD_COMMIT, epoch, ranges, NULL, count);
}

int cbt_abort(struct cbt *cbt, uint64_t epoch, const dev_t *devs, size_t count)
{
	struct call call = { .cbt = cbt };

	return call_group(&call, BLKCBT_CMD_ABORT, epoch, NULL, devs, count);
}

int cbt_mark(struct cbt *cbt, const struct cbt_range *range)
{
	struct call call = { .cbt = cbt };
	struct nl_msg *message = new_request(cbt, BLKCBT_CMD_MARK, 0);

	return call_kernel(&call, message, message ? put_range(message, range) : 0);
}

/* Events. */

int cbt_events_open(struct cbt **out)
{
	struct cbt *events;
	int group, error = new_socket(&events);

	if (error)
		return error;
	group = genl_ctrl_resolve_grp(events->socket, BLKCBT_GENL_NAME, BLKCBT_MCGRP_EVENTS);
	error = group < 0 ? group : nl_socket_add_membership(events->socket, group);
	if (error >= 0)
		error = nl_socket_set_nonblocking(events->socket);
	if (error < 0) {
		error = nl_failed(events, error);
		cbt_close(events);
		return error;
	}
	nl_socket_disable_seq_check(events->socket); /* nobody asked for events */
	*out = events;
	return 0;
}

int cbt_events_fd(const struct cbt *events)
{
	return nl_socket_get_fd(events->socket);
}

struct event_call {
	void (*event)(uint32_t what, const struct cbt_disk *disk, void *user);
	void *user;
};

static int on_event(struct nl_msg *message, void *user)
{
	struct nlattr *attrs[BLKCBT_A_MAX + 1];
	struct nlmsghdr *header = nlmsg_hdr(message);
	const struct event_call *call = user;
	struct cbt_disk disk;
	uint32_t what = 0;
	bool has_disk;

	if (!genlmsg_valid_hdr(header, 0) ||
	    genlmsg_hdr(nlmsg_hdr(message))->cmd != BLKCBT_CMD_EVENT ||
	    genlmsg_parse(header, 0, attrs, BLKCBT_A_MAX, NULL) < 0)
		return NL_SKIP;
	get_u32(attrs, BLKCBT_A_EVENT, &what);
	has_disk = attrs[BLKCBT_A_DISK] && !get_disk(attrs[BLKCBT_A_DISK], &disk);
	if (what)
		call->event(what, has_disk ? &disk : NULL, call->user);
	return NL_OK;
}

/**
 * cbt_events_read - call @event for what is waiting; does not block
 *
 * Return: 0; -ENOBUFS events were lost: look at all disks with cbt_list(); -EIO. @disk is NULL
 * when the event concerns none.
 */
int cbt_events_read(struct cbt *events,
		    void (*event)(uint32_t what, const struct cbt_disk *disk, void *user),
		    void *user)
{
	struct event_call call = { .event = event, .user = user };
	int error = nl_socket_modify_cb(events->socket, NL_CB_VALID, NL_CB_CUSTOM, on_event, &call);

	events->error[0] = '\0';
	for (int i = 0; i < 64 && error >= 0; i++)
		error = nl_recvmsgs_default(events->socket);
	if (error >= 0 || error == -NLE_AGAIN)
		return 0;
	if (error == -NLE_NOMEM) /* libnl's name for ENOBUFS */
		return set_error(events, -ENOBUFS, "events of the kernel module were lost");
	return nl_failed(events, error);
}

int cbt_extents_open(const struct cbt_disk *disk)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), BLKCBT_CHARDEV_FORMAT, disk->index);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int cbt_extents_release(int fd, const struct blkcbt_extent *extents, size_t count)
{
	size_t left = count * sizeof(*extents);
	const char *at = (const char *)extents;

	while (left) {
		ssize_t n = write(fd, at, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		at += n;
		left -= (size_t)n;
	}
	return 0;
}

void cbt_image_path(const struct cbt_disk *disk, char *out, size_t out_bytes)
{
	snprintf(out, out_bytes, BLKCBT_IMAGE_FORMAT, disk->index);
}

int cbt_image_open(const struct cbt_disk *disk)
{
	char path[64];
	int fd;

	cbt_image_path(disk, path, sizeof(path));
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}
