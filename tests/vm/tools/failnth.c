// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * failnth - every allocation that a command makes fails once.
 *
 *   failnth commands DISK DM_DISK MODULE.ko
 *   failnth module DISK DM_DISK MODULE.ko [STEP [FIRST]]	loading and unloading
 *
 * Each operation is repeated with the kernel's fail-nth (Documentation/
 * fault-injection): the first allocation of the task fails, the second, and so
 * on, until a run has so few that none failed. Each run must end in one of two
 * ways: it was done, or it was refused for want of memory and nothing has
 * changed; and after each, the same without a fault must work. That nothing
 * leaked is for kmemleak and the module's reference count to say.
 *
 * STEP, FIRST: only every STEPth allocation from FIRST on, since most that loading
 * makes are the kernel's own (default 1, 1).
 *
 * The fault is armed around the one system call that does the work, so what the
 * tool itself needs does not count. Needs a kernel with FAULT_INJECTION, FAILSLAB,
 * FAIL_PAGE_ALLOC and debugfs.
 */
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "nlmsg.h"

#define MOST 4000	/* allocations of one operation: more is a loop */
#define GRANULE 4096

static struct nlsock sock;
static struct nlmsg out;
static int nth_fd;
static dev_t disk, dm;
static const char *disk_path, *dm_path, *module_path;
static const char *op_name;
static unsigned int at, places, failed_clean, went_on, unknown, wrong;
static uint64_t epoch;

/* How an operation ended. */
enum { DONE = 0, UNKNOWN = -1 /* the answer was lost */ };

static void complain(const char *text, int err)
{
	wrong++;
	printf("WRONG: %s, allocation %u: %s (errno %d %s)\n", op_name, at, text, err, nl_text);
}

static void fatal(const char *text, int err)
{
	complain(text, err);
	exit(1);
}

static void arm(unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	if (pwrite(nth_fd, text, (size_t)len, 0) != len)
		nl_die("fail-nth");
}

/* Whether the fault has struck. */
static bool disarm(void)
{
	int saved = errno;
	char text[16] = "";

	if (pread(nth_fd, text, sizeof(text) - 1, 0) < 1)
		nl_die("fail-nth");
	arm(0);
	errno = saved;
	return text[0] == '0';
}

static void knob(const char *name, const char *value)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s", name);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		nl_die(path);
	close(fd);
}

/*
 * Commands, without faults
 */

struct state {
	bool tracked;
	uint64_t epoch, open, committed, dirty, size, inflight, parked, index;
};

static void note(unsigned int type, const void *data, size_t len, void *arg)
{
	struct state *s = arg;
	uint64_t n = 0;

	if (len <= sizeof(n))
		memcpy(&n, data, len);
	switch (type) {
	case BLKCBT_A_DISK: nl_attrs(data, len, note, arg); break;
	case BLKCBT_A_EPOCH: s->epoch = n; break;
	case BLKCBT_A_EPOCH_STATE: s->open = n; break;
	case BLKCBT_A_EPOCH_COMMITTED: s->committed = n; break;
	case BLKCBT_A_DIRTY_BYTES: s->dirty = n; break;
	case BLKCBT_A_SIZE_BYTES: s->size = n; break;
	case BLKCBT_A_INFLIGHT: s->inflight = n; break;
	case BLKCBT_A_PARKED: s->parked = n; break;
	case BLKCBT_A_INDEX: s->index = n; break;
	default: break;
	}
}

static struct state state_of(dev_t dev)
{
	struct state s = { 0 };
	int err;

	nl_begin(&out, nl_family, BLKCBT_CMD_GET, NLM_F_ACK);
	nl_put_dev(&out, dev);
	err = nl_ask(&sock, &out);
	if (err && err != ENOENT)
		fatal("GET without a fault", err);
	s.tracked = !err;
	if (!err)
		nl_attrs(nl_payload, nl_payload_len, note, &s);
	return s;
}

static void build_dev(int cmd, dev_t dev)
{
	nl_begin(&out, nl_family, cmd, NLM_F_ACK);
	nl_put_dev(&out, dev);
}

static void build_group(int cmd, uint64_t number)
{
	nl_begin(&out, nl_family, cmd, NLM_F_ACK);
	nl_put_u64(&out, BLKCBT_A_EPOCH, number);
	nl_put_disk(&out, disk);
	nl_put_disk(&out, dm);
}

static void build_detach(dev_t dev)
{
	build_dev(BLKCBT_CMD_DETACH, dev);
	nl_put(&out, BLKCBT_A_FORCE, NULL, 0);
}

static void must(const char *text)
{
	int err = nl_ask(&sock, &out);

	if (err)
		fatal(text, err);
}

static void attached(dev_t dev)
{
	if (state_of(dev).tracked)
		return;
	build_dev(BLKCBT_CMD_ATTACH, dev);
	must("attach without a fault");
}

static void detached(dev_t dev)
{
	if (!state_of(dev).tracked)
		return;
	build_detach(dev);
	must("detach without a fault");
}

static void none_open(void)
{
	struct state s = state_of(disk);

	if (!s.open)
		return;
	build_group(BLKCBT_CMD_ABORT, s.epoch);
	must("abort without a fault");
}

static void cut(void)
{
	build_group(BLKCBT_CMD_CUT, ++epoch);
	must("cut without a fault");
}

/* Nothing is dirty on either disk. */
static void clean(void)
{
	none_open();
	cut();
	build_group(BLKCBT_CMD_COMMIT, epoch);
	must("commit without a fault");
}

static void mark(dev_t dev, uint64_t from, uint64_t to)
{
	build_dev(BLKCBT_CMD_MARK, dev);
	nl_put_u64(&out, BLKCBT_A_FROM_BYTES, from);
	nl_put_u64(&out, BLKCBT_A_TO_BYTES, to);
}

static void mark_some(void)
{
	mark(disk, 1 << 20, 4 << 20);
	must("mark without a fault");
	mark(dm, 1 << 20, 4 << 20);
	must("mark without a fault");
}

/*
 * Operations: what is there before, the message or the system call under the
 * fault, and whether it has been done: 1 yes, 0 no and nothing changed, -1 neither
 */

struct op {
	const char *name;
	void (*before)(void);
	int (*call)(void);	/* NULL: the message that before() built; 0 or errno */
	int (*done)(void);
	bool never;		/* may not be refused by the module */
};

static int both(bool d, bool m)
{
	return d == m ? d : -1;
}

static void before_attach_disk(void) { detached(disk); build_dev(BLKCBT_CMD_ATTACH, disk); }
static int done_attach_disk(void) { return state_of(disk).tracked; }
static void before_attach_dm(void) { attached(disk); detached(dm); build_dev(BLKCBT_CMD_ATTACH, dm); }
static int done_attach_dm(void) { return state_of(dm).tracked; }

static void before_get(void) { attached(disk); attached(dm); build_dev(BLKCBT_CMD_GET, disk); }
static void before_info(void) { nl_begin(&out, nl_family, BLKCBT_CMD_INFO, NLM_F_ACK); }
static void before_dump(void) { nl_begin(&out, nl_family, BLKCBT_CMD_GET, NLM_F_ACK | NLM_F_DUMP); }

static void before_cut(void) { none_open(); build_group(BLKCBT_CMD_CUT, ++epoch); }

static int done_cut(void)
{
	struct state d = state_of(disk), m = state_of(dm);

	if (d.open != m.open || d.epoch != m.epoch)
		return -1;
	return d.open ? (d.epoch == epoch ? 1 : -1) : (d.epoch < epoch ? 0 : -1);
}

/* A refused end leaves the epoch open, with all that is in it. */
static void before_end(void)
{
	clean();
	mark_some();
	cut();
}

static void before_commit(void) { before_end(); build_group(BLKCBT_CMD_COMMIT, epoch); }

static int done_commit(void)
{
	struct state d = state_of(disk), m = state_of(dm);

	if (d.open || m.open)
		return both(!d.open, !m.open);
	return d.committed == epoch && m.committed == epoch && !d.dirty && !m.dirty ? 1 : -1;
}

/* What lies outside of the range is put back; more than that may be. */
static void before_commit_range(void)
{
	before_end();
	nl_begin(&out, nl_family, BLKCBT_CMD_COMMIT, NLM_F_ACK);
	nl_put_u64(&out, BLKCBT_A_EPOCH, epoch);
	for (int i = 0; i < 2; i++) {
		size_t nest = nl_nest(&out, BLKCBT_A_DISK | NLA_F_NESTED);

		nl_put_dev(&out, i ? dm : disk);
		nl_put_u64(&out, BLKCBT_A_FROM_BYTES, 2 << 20);
		nl_put_u64(&out, BLKCBT_A_TO_BYTES, 3 << 20);
		nl_nest_end(&out, nest);
	}
}

static int done_commit_range(void)
{
	struct state d = state_of(disk), m = state_of(dm);

	if (d.open || m.open)
		return both(!d.open, !m.open);
	return d.dirty >= 2 << 20 && m.dirty >= 2 << 20 ? 1 : -1;
}

static void before_abort(void) { before_end(); build_group(BLKCBT_CMD_ABORT, epoch); }

static int done_abort(void)
{
	struct state d = state_of(disk), m = state_of(dm);

	if (d.open || m.open)
		return both(!d.open, !m.open);
	return d.dirty >= 3 << 20 && m.dirty >= 3 << 20 ? 1 : -1;
}

static void before_mark(void) { clean(); mark(dm, 1 << 20, 4 << 20); }

static int done_mark(void)
{
	struct state m = state_of(dm);

	return m.dirty >= 3 << 20 ? 1 : m.dirty ? -1 : 0;
}

static int extents_fd = -1;
static char extents_path[64];

static void before_open(void)
{
	none_open();
	cut();
	extents_fd = -1;
	snprintf(extents_path, sizeof(extents_path), BLKCBT_CHARDEV_FORMAT,
		 (unsigned int)state_of(disk).index);
}

static int open_extents(void)
{
	extents_fd = open(extents_path, O_RDONLY);
	return extents_fd < 0 ? errno : 0;
}

static int done_open(void)
{
	bool done = extents_fd >= 0;

	if (done)
		close(extents_fd);
	return done;
}

static struct blkcbt_extent extents[64];
static ssize_t extents_len;

static void before_read(void)
{
	before_end();
	if (open_extents())
		fatal("open without a fault", errno);
}

static int read_extents(void)
{
	extents_len = read(extents_fd, extents, sizeof(extents));
	return extents_len < 0 ? errno : 0;
}

/* Where a read failed, the next begins where it did. */
static int done_read(void)
{
	bool done = extents_len >= 0;

	if (!done)
		read_extents();
	close(extents_fd);
	return extents_len == sizeof(extents[0]) && extents[0].offset_bytes == 1 << 20 &&
	       extents[0].length_bytes == 3 << 20 ? done : -1;
}

static int write_fd = -1;
static dev_t written;
static uint64_t parked_before, parked;
static unsigned char *block;

static void before_write(const char *path, dev_t dev)
{
	clean();
	written = dev;
	parked_before = state_of(dev).parked;
	if (write_fd >= 0)
		close(write_fd);
	write_fd = open(path, O_WRONLY | O_DIRECT);
	if (write_fd < 0)
		nl_die(path);
}

static void before_write_disk(void) { before_write(disk_path, disk); }
static void before_write_dm(void) { before_write(dm_path, dm); }

static int write_block(void)
{
	return pwrite(write_fd, block, GRANULE, 5 * GRANULE) == GRANULE ? 0 : errno;
}

static bool wrote;

/* A write that failed may be marked, one that did not must be. */
static int done_write(void)
{
	struct state s = state_of(written);

	parked += s.parked - parked_before;
	if (s.inflight)
		return -1;
	return wrote ? (s.dirty ? 1 : -1) : 0;
}

static void before_detach_disk(void) { attached(disk); build_detach(disk); }
static int done_detach_disk(void) { return !state_of(disk).tracked; }
static void before_detach_dm(void) { attached(dm); build_detach(dm); }
static int done_detach_dm(void) { return !state_of(dm).tracked; }

static int unload(void)
{
	return syscall(SYS_delete_module, "blkcbt", O_NONBLOCK) ? errno : 0;
}

static int module_fd = -1;

static int load(void)
{
	return syscall(SYS_finit_module, module_fd, "", 0) ? errno : 0;
}

static void before_load(void)
{
	if (nl_resolve(&sock, &out) && unload())
		fatal("unload without a fault", errno);
}

static uint64_t gate_mode;

static void note_mode(unsigned int type, const void *data, size_t len, void *arg)
{
	(void)arg;
	if (type == BLKCBT_A_GATE_MODE && len == 4)
		memcpy(&gate_mode, data, len);
}

/* Want of memory is no reason to be degraded for as long as the module is loaded. */
static int done_load(void)
{
	if (!nl_resolve(&sock, &out))
		return 0;
	before_info();
	must("INFO without a fault");
	gate_mode = 99;
	nl_attrs(nl_payload, nl_payload_len, note_mode, NULL);
	return gate_mode == BLKCBT_GATE_FULL ? 1 : -1;
}

static void before_unload(void)
{
	if (!nl_resolve(&sock, &out) && load())
		fatal("load without a fault", errno);
}

static int done_unload(void) { return !nl_resolve(&sock, &out); }

static const struct op module_ops[] = {
	{ "load", before_load, load, done_load, false },
	{ "unload", before_unload, unload, done_unload, true },
};

static const struct op ops[] = {
	{ "attach", before_attach_disk, NULL, done_attach_disk, false },
	{ "attach dm", before_attach_dm, NULL, done_attach_dm, false },
	{ "get", before_get, NULL, NULL, false },
	{ "dump", before_dump, NULL, NULL, false },
	{ "info", before_info, NULL, NULL, false },
	{ "cut", before_cut, NULL, done_cut, false },
	{ "open", before_open, open_extents, done_open, false },
	{ "read", before_read, read_extents, done_read, false },
	{ "commit", before_commit, NULL, done_commit, false },
	{ "commit of a range", before_commit_range, NULL, done_commit_range, false },
	{ "abort", before_abort, NULL, done_abort, false },
	{ "mark", before_mark, NULL, done_mark, false },
	{ "write", before_write_disk, write_block, done_write, false },
	{ "write, dm", before_write_dm, write_block, done_write, false },
	{ "detach", before_detach_disk, NULL, done_detach_disk, true },
	{ "detach dm", before_detach_dm, NULL, done_detach_dm, true },
};

/* One run; true: the fault has struck. */
static bool one(const struct op *op)
{
	int err, done;
	bool struck;

	op->before();
	nl_text[0] = '\0';
	if (op->call) {
		arm(at);
		err = op->call();
		struck = disarm();
		wrote = !err;
	} else {
		/* A message: the kernel does it before send() returns. */
		out.hdr.nlmsg_seq = ++sock.seq;
		arm(at);
		err = send(sock.fd, out.b, out.len, 0) < 0 ? errno : 0;
		struck = disarm();
		if (!err)
			err = nl_answer(&sock);
		else if (err == ENOBUFS || err == ENOMEM)
			err = ENOMEM;
	}
	if (!struck && err)
		fatal("failed without a fault", err);
	if (err == DONE && struck)
		went_on++;
	else if (err > 0)
		failed_clean++;
	else if (err < 0)
		unknown++;
	if (err < 0 && err != -ENOBUFS)
		complain("the answer was lost without ENOBUFS:", -err);
	if (err > 0 && err != ENOMEM && op->call != load && op->call != write_block)
		complain("refused, and not for want of memory:", err);
	if (err > 0 && op->never && op->call)
		complain("refused:", err);
	if (!op->done)
		return struck;
	done = op->done();
	if (done < 0)
		complain("neither done nor undone:", err);
	else if (err == DONE && !done)
		complain("not done, and said so:", err);
	else if (err > 0 && done && op->call != write_block)
		complain("done, and said to have failed:", err);
	return struck;
}

static void all(const struct op *op, unsigned int first, unsigned int step)
{
	places = failed_clean = went_on = unknown = 0;
	op_name = op->name;
	for (at = first; at < MOST; at += step) {
		if (!one(op))
			break;
		places++;
	}
	if (at >= MOST)
		complain("there is no end to its allocations", 0);
	printf("%s: %u faults: %u refused, %u done all the same, %u answers lost\n", op->name, places,
	       failed_clean, went_on, unknown);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct timeval patience = { .tv_sec = 60 };
	unsigned int step = 1, first = 1;
	bool module;

	if (argc < 5) {
		fprintf(stderr, "usage: failnth commands|module DISK DM_DISK MODULE.ko [STEP [FIRST]]\n");
		return 2;
	}
	module = !strcmp(argv[1], "module");
	disk_path = argv[2];
	dm_path = argv[3];
	module_path = argv[4];
	if (argc > 5)
		step = (unsigned int)strtoul(argv[5], NULL, 0);
	if (argc > 6)
		first = (unsigned int)strtoul(argv[6], NULL, 0);
	disk = nl_dev_of(disk_path);
	dm = nl_dev_of(dm_path);
	nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
	module_fd = open(module_path, O_RDONLY);
	if (nth_fd < 0 || module_fd < 0 || posix_memalign((void **)&block, GRANULE, GRANULE))
		nl_die(nth_fd < 0 ? "fail-nth" : module_path);
	memset(block, 0x5a, GRANULE);
	/* Also what may wait, single pages too, and no word about each. */
	knob("failslab/ignore-gfp-wait", "N");
	knob("failslab/verbose", "0");
	knob("fail_page_alloc/ignore-gfp-wait", "N");
	knob("fail_page_alloc/ignore-gfp-highmem", "N");
	knob("fail_page_alloc/min-order", "0");
	knob("fail_page_alloc/verbose", "0");
	sock = nl_open();
	setsockopt(sock.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));

	before_unload();
	if (!nl_resolve(&sock, &out))
		fatal("the module is not there", 0);
	if (module) {
		for (size_t i = 0; i < sizeof(module_ops) / sizeof(module_ops[0]); i++)
			all(&module_ops[i], first, step);
	} else {
		for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
			all(&ops[i], 1, 1);
		/* A shim that could not be had parks its write: else the faults did not reach the gate. */
		printf("parked=%llu\n", (unsigned long long)parked);
		if (!parked)
			complain("no write was parked", 0);
	}
	before_load();
	printf("wrong=%u\n", wrong);
	return wrong ? 1 : 0;
}
