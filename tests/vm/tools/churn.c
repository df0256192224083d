// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * churn - many processes that all want something else of the same disks.
 *
 *   churn SEED SECONDS PROCESSES OWNED DISK...
 *
 * On each DISK: attach, detach, cut (also of several at once), commit, abort, mark,
 * get, enumerate, by everybody at any time. On OWNED, whose epochs belong to
 * somebody else: what reads, what marks more, and what must be refused. What must
 * hold, whoever comes first:
 *
 * - each command is done, or refused with an errno that a loser of the race can get;
 * - an epoch of a disk ends once: one commit or abort of it succeeds;
 * - a cut that was refused has cut none of its disks, one that was done all of them;
 * - extents ascend, lie on granules and within the disk, and do not touch.
 *
 * Exit status 0 when all of it did.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "nlmsg.h"

#define MAX_DISKS 8
#define MAX_EPOCH 200000u

/* Shared by all processes. */
struct shared {
	uint64_t epoch;				/* the last number given to a cut */
	unsigned char ends[MAX_EPOCH][MAX_DISKS]; /* how often epoch and disk were ended */
	unsigned long done, lost, read;
	unsigned int wrong;
};

static struct shared *shared;
static dev_t disks[MAX_DISKS], owned;
static unsigned int nr_disks;
static struct nlsock sock;
static struct nlmsg out;
static uint64_t state;

static uint64_t any(uint64_t below)
{
	return nl_random(&state) % below;
}

static void complain(const char *format, ...)
{
	va_list args;

	__atomic_fetch_add(&shared->wrong, 1, __ATOMIC_RELAXED);
	fputs("WRONG: ", stdout);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf(" (%s)\n", nl_text);
	fflush(stdout);
}

/* Sends @out; the answer must be 0 or one of those that end with 0. */
static int ask(const char *what, ...)
{
	int err = nl_ask(&sock, &out), may;
	va_list args;

	if (!err) {
		__atomic_fetch_add(&shared->done, 1, __ATOMIC_RELAXED);
		return 0;
	}
	__atomic_fetch_add(&shared->lost, 1, __ATOMIC_RELAXED);
	va_start(args, what);
	do {
		may = va_arg(args, int);
	} while (may && may != err);
	va_end(args);
	if (may != err)
		complain("%s: errno %d", what, err);
	return err;
}

static void build(int cmd, dev_t dev)
{
	nl_begin(&out, nl_family, cmd, NLM_F_ACK);
	nl_put_dev(&out, dev);
}

static void build_group(int cmd, uint64_t epoch)
{
	nl_begin(&out, nl_family, cmd, NLM_F_ACK);
	nl_put_u64(&out, BLKCBT_A_EPOCH, epoch);
}

struct info {
	uint64_t epoch, open, index, granule, size, id;
};

static void note(unsigned int type, const void *data, size_t len, void *arg)
{
	struct info *i = arg;
	uint64_t n = 0;

	if (len <= sizeof(n))
		memcpy(&n, data, len);
	switch (type) {
	case BLKCBT_A_DISK: nl_attrs(data, len, note, arg); break;
	case BLKCBT_A_EPOCH: i->epoch = n; break;
	case BLKCBT_A_EPOCH_STATE: i->open = n; break;
	case BLKCBT_A_INDEX: i->index = n; break;
	case BLKCBT_A_GRANULE_BYTES: i->granule = n; break;
	case BLKCBT_A_SIZE_BYTES: i->size = n; break;
	case BLKCBT_A_ID: i->id = n; break;
	default: break;
	}
}

static bool get(dev_t dev, struct info *i)
{
	memset(i, 0, sizeof(*i));
	build(BLKCBT_CMD_GET, dev);
	if (ask("get", ENOENT, 0))
		return false;
	nl_attrs(nl_payload, nl_payload_len, note, i);
	return true;
}

static void cut(void)
{
	uint64_t epoch = __atomic_add_fetch(&shared->epoch, 1, __ATOMIC_RELAXED);
	unsigned int first = (unsigned int)any(nr_disks), n = (unsigned int)any(nr_disks) + 1;
	struct info before[MAX_DISKS], info;

	if (epoch >= MAX_EPOCH)
		return;
	for (unsigned int i = 0; i < n; i++)
		get(disks[(first + i) % nr_disks], &before[i]);
	build_group(BLKCBT_CMD_CUT, epoch);
	for (unsigned int i = 0; i < n; i++)
		nl_put_disk(&out, disks[(first + i) % nr_disks]);
	if (!ask("cut", ENOENT, EBUSY, EINVAL, 0)) {
		/* Unless it was attached anew meanwhile, each has this epoch or one after it. */
		for (unsigned int i = 0; i < n; i++)
			if (get(disks[(first + i) % nr_disks], &info) && info.id == before[i].id &&
			    info.epoch < epoch)
				complain("epoch %llu was cut, and disk %u has %llu",
					 (unsigned long long)epoch, (first + i) % nr_disks,
					 (unsigned long long)info.epoch);
		return;
	}
	for (unsigned int i = 0; i < nr_disks; i++)
		if (get(disks[i], &info) && info.epoch == epoch)
			complain("epoch %llu was refused, and disk %u has it",
				 (unsigned long long)epoch, i);
}

/* The open epoch of a disk, or one near it; if it is of several disks, this one alone or all. */
static void end(void)
{
	unsigned int disk = (unsigned int)any(nr_disks), n = any(4) ? 1 : nr_disks;
	int cmd = any(2) ? BLKCBT_CMD_COMMIT : BLKCBT_CMD_ABORT;
	struct info info;
	uint64_t epoch;

	if (!get(disks[disk], &info))
		return;
	epoch = any(8) ? info.epoch : info.epoch + any(3) - 1;
	build_group(cmd, epoch);
	for (unsigned int i = 0; i < n; i++)
		nl_put_disk(&out, disks[(disk + i) % nr_disks]);
	if (ask("commit or abort", ENOENT, ESRCH, 0) || epoch >= MAX_EPOCH)
		return;
	for (unsigned int i = 0; i < n; i++)
		if (__atomic_fetch_add(&shared->ends[epoch][(disk + i) % nr_disks], 1, __ATOMIC_RELAXED))
			complain("epoch %llu of disk %u ended twice", (unsigned long long)epoch,
				 (disk + i) % nr_disks);
}

static void enumerate(dev_t dev)
{
	static struct blkcbt_extent batch[200];
	uint64_t behind = 0;
	struct info info;
	char path[64];
	bool first = true;
	ssize_t n;
	int fd;

	if (!get(dev, &info))
		return;
	snprintf(path, sizeof(path), BLKCBT_CHARDEV_FORMAT, (unsigned int)info.index);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		/* removed from /dev, from the driver core, from the list */
		if (errno != ENOENT && errno != ENXIO && errno != ENODEV)
			complain("open: errno %d", errno);
		return;
	}
	while ((n = read(fd, batch, (any(200) + 1) * sizeof(batch[0]))) > 0) {
		for (size_t i = 0; i < (size_t)n / sizeof(batch[0]); i++) {
			struct blkcbt_extent *e = &batch[i];
			uint64_t to = e->offset_bytes + e->length_bytes;

			/* Of an attachment after the one that was asked for, only the order is known. */
			if ((!first && e->offset_bytes <= behind) || !e->length_bytes ||
			    e->offset_bytes % BLKCBT_GRANULE_MIN || to < e->offset_bytes ||
			    to > info.size)
				complain("extent %llu+%llu behind %llu, size %llu",
					 e->offset_bytes, e->length_bytes,
					 (unsigned long long)behind, (unsigned long long)info.size);
			behind = to;
			first = false;
			__atomic_fetch_add(&shared->read, 1, __ATOMIC_RELAXED);
		}
	}
	if (n < 0 && errno != ENODATA && errno != ESTALE && errno != ENODEV)
		complain("read: errno %d", errno);
	close(fd);
}

static void mark(dev_t dev)
{
	uint64_t from = any(4096) << 12;

	build(BLKCBT_CMD_MARK, dev);
	nl_put_u64(&out, BLKCBT_A_FROM_BYTES, from);
	nl_put_u64(&out, BLKCBT_A_TO_BYTES, from + ((any(64) + 1) << 12));
	ask("mark", ENOENT, 0);
}

/* Nothing of this may hurt the one whose disk it is. */
static void at_owned(void)
{
	switch (any(6)) {
	case 0:
		enumerate(owned);
		return;
	case 1:
		mark(owned);
		return;
	case 2:
		build(BLKCBT_CMD_ATTACH, owned);
		if (nl_ask(&sock, &out) != EEXIST)
			complain("attach of a tracked disk: not EEXIST");
		return;
	case 3:
		build_group(any(2) ? BLKCBT_CMD_COMMIT : BLKCBT_CMD_ABORT, 1ull << 40);
		nl_put_disk(&out, owned);
		if (nl_ask(&sock, &out) != ESRCH)
			complain("commit of an epoch that is not open: not ESRCH");
		return;
	case 4: { /* with another disk, which might be ready for it */
		int err;

		build_group(BLKCBT_CMD_CUT, 0);
		nl_put_disk(&out, disks[any(nr_disks)]);
		nl_put_disk(&out, owned);
		err = nl_ask(&sock, &out);
		if (err != EINVAL && err != EBUSY && err != ENOENT)
			complain("cut of epoch 0: errno %d", err);
		return;
	}
	default:
		nl_begin(&out, nl_family, BLKCBT_CMD_GET, NLM_F_ACK | NLM_F_DUMP);
		ask("dump", 0);
	}
}

static void step(void)
{
	dev_t dev = disks[any(nr_disks)];

	switch (any(10)) {
	case 0:
	case 1:
		build(BLKCBT_CMD_ATTACH, dev);
		if (any(2))
			nl_put_u32(&out, BLKCBT_A_GRANULE_BYTES, 4096u << any(9));
		ask("attach", EEXIST, 0);
		return;
	case 2:
		build(BLKCBT_CMD_DETACH, dev);
		if (any(2))
			nl_put(&out, BLKCBT_A_FORCE, NULL, 0);
		ask("detach", ENOENT, EBUSY, 0);
		return;
	case 3:
	case 4:
		cut();
		return;
	case 5:
	case 6:
		end();
		return;
	case 7:
		enumerate(dev);
		return;
	case 8:
		mark(dev);
		return;
	default:
		at_owned();
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned int processes;
	double seconds;
	uint64_t seed;
	int status;

	if (argc < 6) {
		fprintf(stderr, "usage: churn SEED SECONDS PROCESSES OWNED DISK...\n");
		return 2;
	}
	seed = strtoull(argv[1], NULL, 0);
	seconds = strtod(argv[2], NULL);
	processes = (unsigned int)strtoul(argv[3], NULL, 0);
	owned = nl_dev_of(argv[4]);
	for (int i = 5; i < argc && nr_disks < MAX_DISKS; i++)
		disks[nr_disks++] = nl_dev_of(argv[i]);
	sock = nl_open();
	if (!nl_resolve(&sock, &out)) {
		fprintf(stderr, "churn: no family blkcbt: is the module loaded?\n");
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		nl_die("mmap");
	for (unsigned int i = 0; i < processes; i++) {
		pid_t pid = fork();
		double last = now() + seconds;

		if (pid < 0)
			nl_die("fork");
		if (pid)
			continue;
		state = nl_seed(seed, i);
		sock = nl_open();
		while (now() < last)
			step();
		_exit(0);
	}
	while (wait(&status) > 0)
		if (status)
			complain("a process ended with status 0x%x", (unsigned int)status);
	printf("seed %llu, %u processes: done %lu, lost %lu, epochs %llu, extents %lu, wrong %u\n",
	       (unsigned long long)seed, processes, shared->done, shared->lost,
	       (unsigned long long)shared->epoch, shared->read, shared->wrong);
	return shared->wrong || !shared->done || !shared->lost || !shared->read ? 1 : 0;
}
