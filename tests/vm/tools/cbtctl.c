// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cbtctl - the kernel module's commands for tests in virtual machines: every
 * command of the family, the extents, a copy of an epoch, and what no honest
 * program sends. Static helper of the VM cases; not shipped.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <scsi/sg.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/blkcbt.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>

static struct nl_sock *sock;
static int family;
static bool print_disks;
static bool print_event;
static unsigned int disk_index;
static uint64_t disk_size;
static uint64_t hold_id;

static const char *const names[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MODULE_VERSION] = "version", [BLKCBT_A_GATE_MODE] = "gate_mode",
	[BLKCBT_A_GATE_REASON] = "gate_reason", [BLKCBT_A_FAULTS] = "faults",
	[BLKCBT_A_MAJOR] = "major", [BLKCBT_A_MINOR] = "minor", [BLKCBT_A_NAME] = "name",
	[BLKCBT_A_INDEX] = "index", [BLKCBT_A_GRANULE_BYTES] = "granule",
	[BLKCBT_A_SIZE_BYTES] = "size", [BLKCBT_A_FLAGS] = "flags",
	[BLKCBT_A_EPOCH] = "epoch", [BLKCBT_A_EPOCH_STATE] = "state",
	[BLKCBT_A_EPOCH_COMMITTED] = "committed", [BLKCBT_A_CUT_NS] = "cut_ns",
	[BLKCBT_A_DIRTY_BYTES] = "dirty", [BLKCBT_A_OPEN_BYTES] = "open",
	[BLKCBT_A_MAP_BYTES] = "map", [BLKCBT_A_MAP_FALLBACKS] = "fallbacks",
	[BLKCBT_A_ESCAPES] = "escapes", [BLKCBT_A_LATE] = "late",
	[BLKCBT_A_PASSTHROUGH] = "passthrough", [BLKCBT_A_PARKED] = "parked",
	[BLKCBT_A_INFLIGHT] = "inflight", [BLKCBT_A_EVENT] = "event", [BLKCBT_A_ID] = "id",
	[BLKCBT_A_OBSERVERS] = "observers", [BLKCBT_A_EPOCH_MODE] = "mode",
	[BLKCBT_A_BUDGET_BYTES] = "budget", [BLKCBT_A_PRESERVED_BYTES] = "preserved",
	[BLKCBT_A_PRESERVES] = "preserves", [BLKCBT_A_DOWNGRADES] = "downgrades",
	[BLKCBT_A_DOWNGRADE_REASON] = "downgrade_reason", [BLKCBT_A_HELD] = "held",
	[BLKCBT_A_HELD_MAX_NS] = "held_max_ns", [BLKCBT_A_HOLD_ID] = "hold_id",
	[BLKCBT_A_HOLD_NS] = "hold_ns", [BLKCBT_A_HOLDS] = "holds",
	[BLKCBT_A_STORE_STATE] = "store_state", [BLKCBT_A_STORE_TRUSTED] = "store_trusted",
	[BLKCBT_A_STORE_REASON] = "store_reason", [BLKCBT_A_STORE_GENERATION] = "store_generation",
	[BLKCBT_A_STORE_HOT] = "store_hot", [BLKCBT_A_STORE_WRITES] = "store_writes",
	[BLKCBT_A_STORE_PARKED] = "store_parked", [BLKCBT_A_STORE_RISK_BYTES] = "store_risk",
	[BLKCBT_A_STORE_MEMORY_BYTES] = "store_memory",
};

static void die(const char *what)
{
	fprintf(stderr, "cbtctl: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void die_nl(const char *what, int err)
{
	fprintf(stderr, "cbtctl: %s: %s\n", what, nl_geterror(err));
	exit(1);
}

/* The upper end of the bucket in which the holds' PERCENT lies. */
static uint64_t hold_bound(const struct blkcbt_holds *h, uint64_t percent)
{
	uint64_t below = 0;

	for (unsigned int i = 0; i < 32; i++) {
		below += h->bucket[i];
		if (below && below * 100 >= h->count * percent)
			return 2ull << i;
	}
	return h->max_ns;
}

static void print_holds(const struct nlattr *attr)
{
	struct blkcbt_holds h = { 0 };

	if (nla_len(attr) < (int)sizeof(h)) {
		printf("holds=short\n");
		return;
	}
	memcpy(&h, nla_data(attr), sizeof(h));
	printf("holds_count=%llu\nholds_total_ns=%llu\nholds_max_ns=%llu\nholds_p50_ns=%" PRIu64 "\nholds_p99_ns=%" PRIu64 "\nholds_buckets=",
	       h.count, h.total_ns, h.max_ns, hold_bound(&h, 50), hold_bound(&h, 99));
	for (unsigned int i = 0; i < 32; i++)
		if (h.bucket[i])
			printf("%llu:%llu ", 1ull << i, h.bucket[i]);
	printf("\n");
}

/* key=value of every attribute, nests flat; ends a line after each disk. */
static void print_attrs(struct nlattr *attr, int len)
{
	int rem = len;

	for (; nla_ok(attr, rem); attr = nla_next(attr, &rem)) {
		int type = nla_type(attr);

		if (type == BLKCBT_A_DISK) {
			print_attrs(nla_data(attr), nla_len(attr));
			continue;
		}
		if (type > BLKCBT_A_MAX || !names[type])
			continue;
		switch (type) {
		case BLKCBT_A_MODULE_VERSION:
		case BLKCBT_A_GATE_REASON:
		case BLKCBT_A_NAME:
		case BLKCBT_A_DOWNGRADE_REASON:
		case BLKCBT_A_STORE_REASON:
			printf("%s=%s\n", names[type], nla_get_string(attr));
			break;
		case BLKCBT_A_HOLDS:
			print_holds(attr);
			break;
		case BLKCBT_A_FAULTS:
		case BLKCBT_A_STORE_TRUSTED:
			printf("%s=1\n", names[type]);
			break;
		default:
			if (nla_len(attr) == 8)
				printf("%s=%" PRIu64 "\n", names[type], nla_get_u64(attr));
			else
				printf("%s=%u\n", names[type], nla_get_u32(attr));
			if (type == BLKCBT_A_INDEX)
				disk_index = nla_get_u32(attr);
			if (type == BLKCBT_A_SIZE_BYTES)
				disk_size = nla_get_u64(attr);
			if (type == BLKCBT_A_HOLD_ID)
				hold_id = nla_get_u64(attr);
		}
	}
}

static void note_attrs(struct nlattr *attr, int len)
{
	int rem = len;

	for (; nla_ok(attr, rem); attr = nla_next(attr, &rem)) {
		if (nla_type(attr) == BLKCBT_A_DISK)
			note_attrs(nla_data(attr), nla_len(attr));
		else if (nla_type(attr) == BLKCBT_A_INDEX)
			disk_index = nla_get_u32(attr);
		else if (nla_type(attr) == BLKCBT_A_SIZE_BYTES)
			disk_size = nla_get_u64(attr);
	}
}

static int on_valid(struct nl_msg *msg, void *arg)
{
	struct genlmsghdr *hdr = genlmsg_hdr(nlmsg_hdr(msg));

	(void)arg;
	if (hdr->cmd == BLKCBT_CMD_EVENT && !print_event)
		return NL_OK;
	if (print_disks)
		print_attrs(genlmsg_attrdata(hdr, 0), genlmsg_attrlen(hdr, 0));
	else
		note_attrs(genlmsg_attrdata(hdr, 0), genlmsg_attrlen(hdr, 0));
	fflush(stdout);
	return NL_OK;
}

static void extack_text(const struct nlmsghdr *nlh, const struct nlmsgerr *e)
{
	size_t skip = sizeof(*e);
	struct nlattr *attr;
	int rem;

	if (!(nlh->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(nlh->nlmsg_flags & NLM_F_CAPPED))
		skip += e->msg.nlmsg_len - sizeof(e->msg);
	rem = (int)(nlh->nlmsg_len - NLMSG_HDRLEN - skip);
	attr = (struct nlattr *)((char *)(uintptr_t)e + skip);
	for (; nla_ok(attr, rem); attr = nla_next(attr, &rem))
		if (nla_type(attr) == NLMSGERR_ATTR_MSG)
			fprintf(stderr, "cbtctl: %.*s\n", nla_len(attr), (char *)nla_data(attr));
}

static int sent_error;

static int on_error(struct sockaddr_nl *nla, struct nlmsgerr *e, void *arg)
{
	(void)nla;
	(void)arg;
	sent_error = -e->error;
	extack_text((struct nlmsghdr *)(void *)((char *)e - NLMSG_HDRLEN), e);
	return NL_STOP;
}

static int on_ack(struct nl_msg *msg, void *arg)
{
	(void)msg;
	*(int *)arg = 1;
	return NL_STOP;
}

static int on_finish(struct nl_msg *msg, void *arg)
{
	(void)msg;
	*(int *)arg = 1;
	return NL_SKIP;
}

static void open_socket(void)
{
	int one = 1;

	sock = nl_socket_alloc();
	if (!sock || genl_connect(sock))
		die("cannot open a netlink socket");
	setsockopt(nl_socket_get_fd(sock), SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	setsockopt(nl_socket_get_fd(sock), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	family = genl_ctrl_resolve(sock, BLKCBT_GENL_NAME);
	if (family < 0) {
		fprintf(stderr, "cbtctl: no family blkcbt: is the module loaded?\n");
		exit(1);
	}
}

static struct nl_msg *new_msg(int cmd, int flags)
{
	struct nl_msg *msg = nlmsg_alloc_size(65536);

	if (!msg || !genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, flags, (uint8_t)cmd,
				 BLKCBT_GENL_VERSION))
		die("no memory");
	return msg;
}

/* Sends and waits; 0 or the errno that the kernel answered. */
static int transact(struct nl_msg *msg)
{
	struct nl_cb *cb = nl_cb_alloc(NL_CB_DEFAULT);
	int done = 0, err;

	sent_error = 0;
	nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, on_valid, NULL);
	nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, on_ack, &done);
	nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, on_finish, &done);
	nl_cb_err(cb, NL_CB_CUSTOM, on_error, NULL);
	err = nl_send_auto(sock, msg);
	if (err < 0)
		die_nl("cannot send", err);
	while (!done && !sent_error) {
		err = nl_recvmsgs(sock, cb);
		if (err < 0 && !sent_error)
			die_nl("cannot receive", err);
	}
	nlmsg_free(msg);
	nl_cb_put(cb);
	return sent_error;
}

static int finish(const char *what, int err)
{
	if (!err)
		return 0;
	fprintf(stderr, "cbtctl: %s: errno %d: %s\n", what, err, strerror(err));
	return 1;
}

/* "254:0" or the path of a device */
static dev_t dev_of(const char *name)
{
	unsigned int maj, min;
	struct stat st;

	if (sscanf(name, "%u:%u", &maj, &min) == 2)
		return makedev(maj, min);
	if (stat(name, &st) || !S_ISBLK(st.st_mode)) {
		fprintf(stderr, "cbtctl: %s: not a block device\n", name);
		exit(1);
	}
	return st.st_rdev;
}

static void put_dev(struct nl_msg *msg, const char *name)
{
	dev_t dev = dev_of(name);

	nla_put_u32(msg, BLKCBT_A_MAJOR, major(dev));
	nla_put_u32(msg, BLKCBT_A_MINOR, minor(dev));
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	switch (*end) {
	case 'k': n <<= 10; break;
	case 'M': n <<= 20; break;
	case 'G': n <<= 30; break;
	default: break;
	}
	return n;
}

/*
 * The options of a store: --store PATH --identity TEXT, --generation N, --hot N, --extent N, --await. They are
 * taken out of the arguments; returns how many are left.
 */
static int store_options(struct nl_msg *msg, int argc, char **argv)
{
	int left = 0;

	for (int i = 0; i < argc; i++) {
		bool more = i + 1 < argc;

		if (!strcmp(argv[i], "--store") && more) {
			struct stat st;
			int fd;

			i++;
			/* a file is only read by others: the kernel writes its blocks */
			fd = open(argv[i], stat(argv[i], &st) || S_ISBLK(st.st_mode) ? O_RDWR : O_RDONLY);
			if (fd < 0)
				die(argv[i]);
			nla_put_u32(msg, BLKCBT_A_STORE_FD, (uint32_t)fd);
		} else if (!strcmp(argv[i], "--identity") && more) {
			i++;
			nla_put(msg, BLKCBT_A_IDENTITY, (int)strlen(argv[i]), argv[i]);
		} else if (!strcmp(argv[i], "--generation") && more) {
			nla_put_u64(msg, BLKCBT_A_STORE_GENERATION, number(argv[++i]));
		} else if (!strcmp(argv[i], "--hot") && more) {
			nla_put_u32(msg, BLKCBT_A_STORE_HOT_MAX, (uint32_t)number(argv[++i]));
		} else if (!strcmp(argv[i], "--extent") && more) {
			nla_put_u32(msg, BLKCBT_A_STORE_EXTENT_BYTES, (uint32_t)number(argv[++i]));
		} else if (!strcmp(argv[i], "--await")) {
			nla_put_flag(msg, BLKCBT_A_STORE_AWAITED);
		} else {
			argv[left++] = argv[i];
		}
	}
	return left;
}

static int simple(int cmd, const char *what, int argc, char **argv)
{
	struct nl_msg *msg = new_msg(cmd, NLM_F_ACK);

	argc = store_options(msg, argc, argv);
	if (argc > 0)
		put_dev(msg, argv[0]);
	if ((cmd == BLKCBT_CMD_ATTACH || cmd == BLKCBT_CMD_STORE_FORMAT) && argc > 1)
		nla_put_u32(msg, BLKCBT_A_GRANULE_BYTES, (uint32_t)number(argv[1]));
	if (cmd == BLKCBT_CMD_DETACH && argc > 1 && !strcmp(argv[1], "--force"))
		nla_put_flag(msg, BLKCBT_A_FORCE);
	if (cmd == BLKCBT_CMD_MARK && argc > 2) {
		nla_put_u64(msg, BLKCBT_A_FROM_BYTES, number(argv[1]));
		nla_put_u64(msg, BLKCBT_A_TO_BYTES, number(argv[2]));
	}
	return finish(what, transact(msg));
}

static uint32_t mode_of(const char *text)
{
	static const char *const modes[] = { "fuzzy", "consistent", "snapshot" };

	for (uint32_t i = 0; i < 3; i++)
		if (!strcmp(text, modes[i]))
			return i;
	return (uint32_t)number(text);
}

static int group(int cmd, const char *what, int argc, char **argv)
{
	struct nl_msg *msg = new_msg(cmd, NLM_F_ACK);
	const char *from = NULL, *to = NULL;
	int i;

	if (argc < 1)
		return 2;
	nla_put_u64(msg, BLKCBT_A_EPOCH, number(argv[0]));
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--from") && i + 1 < argc)
			from = argv[++i];
		else if (!strcmp(argv[i], "--to") && i + 1 < argc)
			to = argv[++i];
		else if (!strcmp(argv[i], "--mode") && i + 1 < argc)
			nla_put_u32(msg, BLKCBT_A_EPOCH_MODE, mode_of(argv[++i]));
		else if (!strcmp(argv[i], "--budget") && i + 1 < argc)
			nla_put_u64(msg, BLKCBT_A_BUDGET_BYTES, number(argv[++i]));
		else if (!strcmp(argv[i], "--hold") && i + 1 < argc)
			nla_put_u64(msg, BLKCBT_A_HOLD_ID, number(argv[++i]));
	}
	for (i = 1; i < argc; i++) {
		struct nlattr *nest;

		if (!strncmp(argv[i], "--", 2)) {
			i++;
			continue;
		}
		nest = nla_nest_start(msg, BLKCBT_A_DISK | NLA_F_NESTED);
		put_dev(msg, argv[i]);
		if (from)
			nla_put_u64(msg, BLKCBT_A_FROM_BYTES, number(from));
		if (to)
			nla_put_u64(msg, BLKCBT_A_TO_BYTES, number(to));
		nla_nest_end(msg, nest);
	}
	return finish(what, transact(msg));
}

/* Opens the character device of a tracked disk. */
static int open_extents(const char *disk, int flags)
{
	char path[64];
	struct nl_msg *msg = new_msg(BLKCBT_CMD_GET, NLM_F_ACK);
	int fd, err;

	print_disks = false;
	put_dev(msg, disk);
	err = transact(msg);
	if (err)
		exit(finish("get", err));
	snprintf(path, sizeof(path), BLKCBT_CHARDEV_FORMAT, disk_index);
	fd = open(path, flags);
	if (fd < 0)
		die(path);
	return fd;
}

static int extents(int argc, char **argv)
{
	struct blkcbt_extent batch[100];
	int fd = open_extents(argv[0], O_RDONLY);
	ssize_t n;

	if (argc > 1 && lseek(fd, (off_t)number(argv[1]), SEEK_SET) < 0)
		die("lseek");
	while ((n = read(fd, batch, sizeof(batch))) > 0)
		for (size_t i = 0; i < (size_t)n / sizeof(batch[0]); i++)
			printf("%llu %llu\n", batch[i].offset_bytes, batch[i].length_bytes);
	if (n < 0)
		die("read extents");
	return 0;
}

/* A descriptor across the end of its epoch: reads, waits for a line on stdin, reads again. */
static int hold(char **argv)
{
	struct blkcbt_extent one;
	int fd = open_extents(argv[0], O_RDONLY);
	ssize_t n = read(fd, &one, sizeof(one));

	printf("%zd\n", n);
	fflush(stdout);
	while (getchar() != '\n' && !feof(stdin))
		;
	n = read(fd, &one, sizeof(one));
	if (n < 0)
		die("read again");
	return 0;
}

/* Holds writers until a line or the end of stdin; says when they are held. */
static int hold_writers(int argc, char **argv)
{
	struct nl_msg *msg = new_msg(BLKCBT_CMD_HOLD, NLM_F_ACK);
	int err;

	nla_put_u32(msg, BLKCBT_A_DEADLINE_MS, (uint32_t)number(argv[0]));
	for (int i = 1; i < argc; i++) {
		struct nlattr *nest = nla_nest_start(msg, BLKCBT_A_DISK | NLA_F_NESTED);

		put_dev(msg, argv[i]);
		nla_nest_end(msg, nest);
	}
	err = transact(msg);
	if (err)
		return finish("hold-writers", err);
	for (int c = getchar(); c != '\n' && c != EOF; c = getchar())
		;
	msg = new_msg(BLKCBT_CMD_RELEASE, NLM_F_ACK);
	nla_put_u64(msg, BLKCBT_A_HOLD_ID, hold_id);
	err = transact(msg);
	if (!err)
		printf("released\n");
	return finish("release", err);
}

static int release(char **argv)
{
	struct nl_msg *msg = new_msg(BLKCBT_CMD_RELEASE, NLM_F_ACK);

	nla_put_u64(msg, BLKCBT_A_HOLD_ID, number(argv[0]));
	return finish("release", transact(msg));
}

//
// Copies of an epoch
//

static uint64_t dice;

static uint64_t roll(uint64_t n)
{
	dice = dice * 6364136223846793005ull + 1442695040888963407ull;
	return (dice >> 33) % n;
}

struct copying {
	bool image;		/* read from the image; else from the disk itself */
	bool keep;		/* release nothing */
	const char *order;
	uint64_t delay_us;	/* after each piece, in the mean */
	uint64_t piece_max;	/* pieces are of random size up to this */
	uint64_t stop_after;	/* pieces, then it kills itself */
};

enum { CHUNK = 1 << 20 };

static void exchange(struct blkcbt_extent *a, struct blkcbt_extent *b)
{
	struct blkcbt_extent was = *a;

	*a = *b;
	*b = was;
}

/* All extents of the epoch, cut into pieces, in the order asked for. */
static struct blkcbt_extent *pieces_of(int fd, const struct copying *how, size_t *count, uint64_t *runs)
{
	struct blkcbt_extent *pieces = NULL, e;
	size_t n = 0, room = 0;
	ssize_t got;

	*runs = 0;
	while ((got = read(fd, &e, sizeof(e))) == (ssize_t)sizeof(e)) {
		(*runs)++;
		while (e.length_bytes) {
			uint64_t len = how->piece_max;

			if (strcmp(how->order, "forward"))
				len = 4096 * (1 + roll(how->piece_max / 4096));
			if (len > e.length_bytes)
				len = e.length_bytes;
			if (n == room) {
				room = room ? 2 * room : 1024;
				pieces = realloc(pieces, room * sizeof(*pieces));
				if (!pieces)
					die("memory");
			}
			pieces[n++] = (struct blkcbt_extent){ e.offset_bytes, len };
			e.offset_bytes += len;
			e.length_bytes -= len;
		}
	}
	if (got)
		die("read extents");
	if (!strcmp(how->order, "reverse"))
		for (size_t i = 0; i < n / 2; i++)
			exchange(&pieces[i], &pieces[n - 1 - i]);
	if (!strcmp(how->order, "random"))
		for (size_t i = 0; i < n; i++)
			exchange(&pieces[i], &pieces[i + roll(n - i)]);
	*count = n;
	return pieces;
}

static int open_image(const char *disk, int flags)
{
	char path[64];
	int fd;

	close(open_extents(disk, O_RDONLY));
	snprintf(path, sizeof(path), BLKCBT_IMAGE_FORMAT, disk_index);
	fd = open(path, flags);
	if (fd < 0)
		die(path);
	return fd;
}

static int copy(int argc, char **argv)
{
	struct copying how = { .order = "forward", .piece_max = CHUNK };
	struct blkcbt_extent *pieces;
	uint64_t total = 0, runs;
	size_t count;
	int fd, src, dst;
	void *buf;

	dice = 1;
	for (int i = 2; i < argc; i++) {
		bool more = i + 1 < argc;

		if (!strcmp(argv[i], "--image"))
			how.image = true;
		else if (!strcmp(argv[i], "--no-release"))
			how.keep = true;
		else if (!strcmp(argv[i], "--order") && more)
			how.order = argv[++i];
		else if (!strcmp(argv[i], "--delay-us") && more)
			how.delay_us = number(argv[++i]);
		else if (!strcmp(argv[i], "--piece") && more)
			how.piece_max = number(argv[++i]);
		else if (!strcmp(argv[i], "--stop-after") && more)
			how.stop_after = number(argv[++i]);
		else if (!strcmp(argv[i], "--seed") && more)
			dice = number(argv[++i]);
	}
	if (how.piece_max < 4096 || how.piece_max > CHUNK)
		how.piece_max = CHUNK;
	src = how.image ? open_image(argv[0], O_RDONLY | O_DIRECT) : open(argv[0], O_RDONLY | O_DIRECT);
	dst = open(argv[1], O_WRONLY | O_CREAT | O_DIRECT, 0600);
	if (dst < 0 && errno == EINVAL)
		dst = open(argv[1], O_WRONLY | O_CREAT, 0600);
	if (src < 0 || dst < 0)
		die("open");
	if (posix_memalign(&buf, 4096, CHUNK))
		die("memory");
	fd = open_extents(argv[0], how.image && !how.keep ? O_RDWR : O_RDONLY);
	pieces = pieces_of(fd, &how, &count, &runs);
	for (size_t i = 0; i < count; i++) {
		const struct blkcbt_extent *p = &pieces[i];
		size_t len = (size_t)p->length_bytes;

		if (how.stop_after && i == how.stop_after)
			kill(getpid(), SIGKILL);
		if (pread(src, buf, len, (off_t)p->offset_bytes) != (ssize_t)len) {
			fprintf(stderr, "cbtctl: %zu bytes at %llu: ", len, p->offset_bytes);
			die("pread");
		}
		if (how.image && !how.keep && write(fd, p, sizeof(*p)) != (ssize_t)sizeof(*p))
			die("release extents");
		if (pwrite(dst, buf, len, (off_t)p->offset_bytes) != (ssize_t)len)
			die("pwrite");
		total += len;
		if (how.delay_us)
			usleep((useconds_t)roll(2 * how.delay_us));
	}
	if (fsync(dst))
		die("fsync");
	printf("copied=%" PRIu64 " extents=%" PRIu64 " pieces=%zu\n", total, runs, count);
	free(pieces);
	return 0;
}

/* Releases one range. */
static int release_range(char **argv)
{
	struct blkcbt_extent e = { number(argv[1]), number(argv[2]) };
	int fd = open_extents(argv[0], O_RDWR);

	if (write(fd, &e, sizeof(e)) != (ssize_t)sizeof(e))
		die("release extents");
	return 0;
}

/* One read of the image past the page cache; what is read goes to stdout. */
static int imgread(char **argv)
{
	size_t len = (size_t)number(argv[2]), done = 0;
	int fd = open_image(argv[0], O_RDONLY | O_DIRECT);
	ssize_t n;
	char *buf;

	if (posix_memalign((void **)&buf, 4096, len))
		die("memory");
	n = pread(fd, buf, len, (off_t)number(argv[1]));
	if (n < 0)
		die("pread");
	if ((size_t)n != len) {
		fprintf(stderr, "cbtctl: read %zd of %zu bytes\n", n, len);
		return 1;
	}
	while (done < len) {
		n = write(STDOUT_FILENO, buf + done, len - done);
		if (n < 0)
			die("stdout");
		done += (size_t)n;
	}
	return 0;
}

/* One write that must not wait. */
static int nowait(char **argv)
{
	struct iovec iov = { .iov_len = 4096 };
	int fd = open(argv[0], O_WRONLY | O_DIRECT);

	if (fd < 0 || posix_memalign(&iov.iov_base, 4096, 4096))
		die(argv[0]);
	memset(iov.iov_base, 0xee, 4096);
	if (pwritev2(fd, &iov, 1, (off_t)number(argv[1]), RWF_NOWAIT) != 4096)
		die("pwritev2");
	printf("written\n");
	return 0;
}

static int no_seq(struct nl_msg *msg, void *arg)
{
	(void)msg;
	(void)arg;
	return NL_OK;
}

static int events(const char *seconds)
{
	int group_id = genl_ctrl_resolve_grp(sock, BLKCBT_GENL_NAME, BLKCBT_MCGRP_EVENTS);
	time_t end = time(NULL) + (time_t)number(seconds);
	struct pollfd pfd;

	if (group_id < 0 || nl_socket_add_membership(sock, group_id))
		die("cannot subscribe");
	nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, on_valid, NULL);
	nl_socket_modify_cb(sock, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, no_seq, NULL);
	print_disks = true;
	print_event = true;
	printf("listening\n");
	fflush(stdout);
	pfd = (struct pollfd){ .fd = nl_socket_get_fd(sock), .events = POLLIN };
	while (time(NULL) < end)
		if (poll(&pfd, 1, 200) > 0)
			nl_recvmsgs_default(sock);
	return 0;
}

/* SG_IO: "sg DEV CDB-HEX [out BYTES|in BYTES]" */
static int sg(int argc, char **argv)
{
	static unsigned char data[1 << 20], sense[64];
	unsigned char cdb[32];
	unsigned int len = 0;
	sg_io_hdr_t h = { .interface_id = 'S', .timeout = 20000 };
	const char *p = argv[1];
	int fd = open(argv[0], O_RDWR);

	if (fd < 0)
		die(argv[0]);
	while (p[0] && p[1] && len < sizeof(cdb)) {
		unsigned int byte;

		if (sscanf(p, "%2x", &byte) != 1)
			break;
		cdb[len++] = (unsigned char)byte;
		p += 2;
	}
	memset(data, 0x5a, sizeof(data));
	h.cmdp = cdb;
	h.cmd_len = (unsigned char)len;
	h.sbp = sense;
	h.mx_sb_len = sizeof(sense);
	h.dxfer_direction = SG_DXFER_NONE;
	if (argc > 3) {
		h.dxfer_direction = strcmp(argv[2], "out") ? SG_DXFER_FROM_DEV : SG_DXFER_TO_DEV;
		h.dxfer_len = (unsigned int)number(argv[3]);
		h.dxferp = data;
	}
	if (ioctl(fd, SG_IO, &h))
		die("SG_IO");
	printf("status=%u\n", h.status);
	return h.status ? 1 : 0;
}

/*
 * What no honest program sends. Each prints "errno N"; exit status 0 when the
 * kernel refused.
 */
static int raw(int argc, char **argv)
{
	const char *what = argv[0];
	const char *disk = argc > 1 ? argv[1] : "1:1";
	struct nl_msg *msg;
	int err;

	if (!strcmp(what, "nocap")) {
		/* The socket is opened without privilege, too. */
		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
			die("cannot drop privileges");
		nl_socket_free(sock);
		open_socket();
		for (int cmd = BLKCBT_CMD_ATTACH; cmd <= BLKCBT_CMD_MARK; cmd++) {
			if (cmd == BLKCBT_CMD_GET)
				continue;
			msg = new_msg(cmd, NLM_F_ACK);
			err = transact(msg);
			printf("command %d: errno %d\n", cmd, err);
			if (err != EPERM)
				return 1;
		}
		return simple(BLKCBT_CMD_INFO, "info", 0, NULL);
	}
	if (!strcmp(what, "unknown-command")) {
		msg = new_msg(77, NLM_F_ACK);
	} else if (!strcmp(what, "event-command")) {
		msg = new_msg(BLKCBT_CMD_EVENT, NLM_F_ACK);
	} else if (!strcmp(what, "unknown-attribute")) {
		msg = new_msg(BLKCBT_CMD_ATTACH, NLM_F_ACK);
		put_dev(msg, disk);
		nla_put_u32(msg, BLKCBT_A_MAX + 5, 1);
	} else if (!strcmp(what, "foreign-attribute")) {
		msg = new_msg(BLKCBT_CMD_ATTACH, NLM_F_ACK);
		put_dev(msg, disk);
		nla_put_u64(msg, BLKCBT_A_EPOCH, 1);
	} else if (!strcmp(what, "short-attribute")) {
		msg = new_msg(BLKCBT_CMD_ATTACH, NLM_F_ACK);
		nla_put_u8(msg, BLKCBT_A_MAJOR, 1);
		nla_put_u8(msg, BLKCBT_A_MINOR, 1);
	} else if (!strcmp(what, "no-disk")) {
		msg = new_msg(BLKCBT_CMD_CUT, NLM_F_ACK);
		nla_put_u64(msg, BLKCBT_A_EPOCH, 1);
	} else if (!strcmp(what, "no-epoch")) {
		msg = new_msg(BLKCBT_CMD_CUT, NLM_F_ACK);
	} else if (!strcmp(what, "flat-nest")) {
		msg = new_msg(BLKCBT_CMD_CUT, NLM_F_ACK);
		nla_put_u64(msg, BLKCBT_A_EPOCH, 1);
		nla_put_u32(msg, BLKCBT_A_DISK, 0xffffffff);
	} else if (!strcmp(what, "huge-device")) {
		msg = new_msg(BLKCBT_CMD_ATTACH, NLM_F_ACK);
		nla_put_u32(msg, BLKCBT_A_MAJOR, 0xffffffff);
		nla_put_u32(msg, BLKCBT_A_MINOR, 0xffffffff);
	} else if (!strcmp(what, "truncated")) {
		msg = new_msg(BLKCBT_CMD_ATTACH, NLM_F_ACK);
		put_dev(msg, disk);
		nlmsg_hdr(msg)->nlmsg_len -= 2;
	} else if (!strcmp(what, "garbage")) {
		unsigned int seed = argc > 2 ? (unsigned int)number(argv[2]) : 1;
		int count = argc > 1 ? (int)number(argv[1]) : 1000;

		/* Seeded; never names a disk that exists (major 1: /dev/ram, absent). */
		for (int i = 0; i < count; i++) {
			unsigned char junk[256];
			int len;

			seed = seed * 1103515245u + 12345u;
			len = (int)(seed >> 16) % (int)sizeof(junk);
			for (int j = 0; j < len; j++) {
				seed = seed * 1103515245u + 12345u;
				junk[j] = (unsigned char)(seed >> 16);
			}
			msg = new_msg((int)(seed >> 20) % (BLKCBT_CMD_MAX + 3), NLM_F_ACK);
			if (nlmsg_append(msg, junk, (size_t)len, NLMSG_ALIGNTO))
				die("no memory");
			transact(msg);
		}
		printf("sent %d\n", count);
		return 0;
	} else {
		return 2;
	}
	err = transact(msg);
	printf("errno %d\n", err);
	return err ? 0 : 1;
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";
	int n = argc - 2;
	char **a = argv + 2;

	if (!strcmp(cmd, "sg") && n >= 2)
		return sg(n, a);
	if (!strcmp(cmd, "nowait") && n >= 2)
		return nowait(a);
	open_socket();
	print_disks = true;
	if (!strcmp(cmd, "info"))
		return simple(BLKCBT_CMD_INFO, cmd, 0, NULL);
	if (!strcmp(cmd, "attach") && n >= 1)
		return simple(BLKCBT_CMD_ATTACH, cmd, n, a);
	if (!strcmp(cmd, "detach") && n >= 1)
		return simple(BLKCBT_CMD_DETACH, cmd, n, a);
	if (!strcmp(cmd, "store-format") && n >= 1)
		return simple(BLKCBT_CMD_STORE_FORMAT, cmd, n, a);
	if (!strcmp(cmd, "store-add") && n >= 1)
		return simple(BLKCBT_CMD_STORE_ADD, cmd, n, a);
	if (!strcmp(cmd, "store-drop") && n >= 1)
		return simple(BLKCBT_CMD_STORE_DROP, cmd, n, a);
	if (!strcmp(cmd, "mark") && n >= 1)
		return simple(BLKCBT_CMD_MARK, cmd, n, a);
	if (!strcmp(cmd, "get") && n == 0)
		return finish(cmd, transact(new_msg(BLKCBT_CMD_GET, NLM_F_DUMP)));
	if (!strcmp(cmd, "get"))
		return simple(BLKCBT_CMD_GET, cmd, 1, a);
	if (!strcmp(cmd, "cut"))
		return group(BLKCBT_CMD_CUT, cmd, n, a);
	if (!strcmp(cmd, "commit"))
		return group(BLKCBT_CMD_COMMIT, cmd, n, a);
	if (!strcmp(cmd, "abort"))
		return group(BLKCBT_CMD_ABORT, cmd, n, a);
	if (!strcmp(cmd, "extents") && n >= 1)
		return extents(n, a);
	if (!strcmp(cmd, "hold") && n >= 1)
		return hold(a);
	if (!strcmp(cmd, "copy") && n >= 2)
		return copy(n, a);
	if (!strcmp(cmd, "hold-writers") && n >= 2)
		return hold_writers(n, a);
	if (!strcmp(cmd, "release") && n == 1)
		return release(a);
	if (!strcmp(cmd, "release") && n == 3)
		return release_range(a);
	if (!strcmp(cmd, "imgread") && n >= 3)
		return imgread(a);
	if (!strcmp(cmd, "events") && n >= 1)
		return events(a[0]);
	if (!strcmp(cmd, "raw") && n >= 1)
		return raw(n, a);
	fprintf(stderr,
		"usage: cbtctl info|get [DEV]|attach DEV [GRANULE] [--await]|detach DEV [--force]|mark DEV [FROM TO]|\n"
		"       cut EPOCH DEV... [--mode fuzzy|consistent|snapshot] [--budget N] [--hold ID]|\n"
		"       commit EPOCH DEV... [--from N] [--to N]|abort EPOCH DEV...|extents DEV [OFFSET]|hold DEV|\n"
		"       copy DEV FILE [--image] [--no-release] [--order forward|reverse|random] [--seed N]\n"
		"            [--piece N] [--delay-us N] [--stop-after PIECES]|imgread DEV OFFSET LENGTH|\n"
		"       release DEV OFFSET LENGTH|hold-writers DEADLINE_MS DEV...|release HOLD_ID|\n"
		"       attach|store-add|store-format DEV [GRANULE] --store PATH --identity TEXT [--generation N] [--hot N]\n"
		"            [--extent N]|store-drop DEV|\n"
		"       nowait DEV OFFSET|events SECONDS|sg DEV CDB-HEX [in|out BYTES]|raw WHAT [DEV]\n");
	return 2;
}
