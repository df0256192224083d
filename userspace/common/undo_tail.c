/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_tail: see undo_tail.h. A sequence lock in shared memory: the sequence is odd while the writer changes what is
 * behind it, and a reader that saw it change reads again. A writer that died in between leaves it odd; the next
 * publication, by whoever has the log then, goes on from there.
 *
 * The page is never synced, so after a power cut it says anything that it ever said. What was published in another boot is
 * therefore not believed.
 */
#include "undo_tail.h"
#include "undo_file.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define TAIL_NAME "tail"
#define TAIL_MAGIC 0x314c494154444e55ull /* "UNDTAIL1" */
#define SPINS 1000u
#define WAIT_MS 1000u
#define WAIT_NS 50000L

/*
 * In the byte order of the machine, which is the only one that maps it. @magic is written before the page is mapped;
 * everything else only through the atomic operations below.
 */
struct undo_tail_page {
	uint64_t magic;
	uint64_t sequence;
	uint64_t committed;
	uint64_t open;
	uint64_t batches;
	uint64_t undone;
	uint64_t log[UNDO_UUID_BYTES / 8];
	uint64_t boot[2]; /* in which it was published */
};

_Static_assert(offsetof(struct undo_tail_page, sequence) == 8, "tail sequence offset");
_Static_assert(offsetof(struct undo_tail_page, boot) == 64, "tail boot offset");
_Static_assert(sizeof(struct undo_tail_page) == 80, "tail size");

/* Allocated and written in full: a page of a hole would be a SIGBUS when the volume is full. */
static int make_file(int fd)
{
	uint8_t block[UNDO_BLOCK] = { 0 };
	struct undo_tail_page page = { .magic = TAIL_MAGIC };
	int error;

	memcpy(block, &page, sizeof(page));
	error = undo_ftruncate(fd, sizeof(block));
	if (!error)
		error = undo_allocate(fd, 0, sizeof(block));
	if (!error)
		error = undo_pwrite(fd, block, sizeof(block), 0);
	return error;
}

static int check_file(int fd)
{
	struct stat status;
	uint64_t magic;

	if (fstat(fd, &status))
		return -errno;
	if (!S_ISREG(status.st_mode) || status.st_size != UNDO_BLOCK)
		return -ENODATA;
	if (undo_pread(fd, &magic, sizeof(magic), 0) || magic != TAIL_MAGIC)
		return -ENODATA;
	return 0;
}

int undo_tail_map(struct undo_tail_page **page, int dir, bool write)
{
	CLEANUP_FD int fd = openat(dir, TAIL_NAME, (write ? O_RDWR | O_CREAT : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC, 0600);
	void *map;
	int error;

	*page = NULL;
	if (fd < 0)
		return -errno;
	error = check_file(fd);
	if (error == -ENODATA && write)
		error = make_file(fd);
	if (error)
		return error;
	map = mmap(NULL, UNDO_BLOCK, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	*page = map;
	return 0;
}

void undo_tail_unmap(struct undo_tail_page *page)
{
	if (page)
		munmap(page, UNDO_BLOCK);
}

static uint64_t this_boot[2];

/* The kernel's random number for this boot; where it has none to give, every boot is the same. */
static void learn_boot(void)
{
	CLEANUP_FILE FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	unsigned a, b, c, d;
	unsigned long long e;

	if (!file || fscanf(file, "%8x-%4x-%4x-%4x-%12llx", &a, &b, &c, &d, &e) != 5)
		return;
	this_boot[0] = (uint64_t)a << 32 | (uint64_t)b << 16 | c;
	this_boot[1] = (uint64_t)d << 48 | e;
}

static void know_boot(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, learn_boot);
}

static uint64_t get(const uint64_t *field) { return __atomic_load_n(field, __ATOMIC_RELAXED); }
static void set(uint64_t *field, uint64_t value) { __atomic_store_n(field, value, __ATOMIC_RELAXED); }

void undo_tail_publish(struct undo_tail_page *page, const struct undo_tail *tail)
{
	uint64_t sequence = get(&page->sequence), open = get(&page->open), log[ARRAY_LENGTH(page->log)];
	bool died; /* then who knows what was published */

	know_boot();
	died = sequence & 1 || get(&page->boot[0]) != this_boot[0] || get(&page->boot[1]) != this_boot[1];
	memcpy(log, tail->log, sizeof(log));
	sequence += sequence & 1 ? 2 : 1;
	set(&page->sequence, sequence);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	if (died || (open && open != tail->open && open != tail->committed))
		set(&page->undone, get(&page->undone) + 1);
	set(&page->committed, tail->committed);
	set(&page->open, tail->open);
	set(&page->batches, tail->batches);
	for (unsigned i = 0; i < ARRAY_LENGTH(log); i++)
		set(&page->log[i], log[i]);
	set(&page->boot[0], this_boot[0]);
	set(&page->boot[1], this_boot[1]);
	__atomic_store_n(&page->sequence, sequence + 1, __ATOMIC_RELEASE);
	/* The disk is overwritten after this. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* -EBUSY: it is being changed; -EAGAIN: it was published in another boot. */
static int try_read(const struct undo_tail_page *page, struct undo_tail *tail)
{
	uint64_t sequence = __atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE), log[ARRAY_LENGTH(page->log)];
	bool believed;

	if (sequence & 1)
		return -EBUSY;
	tail->generation = sequence;
	tail->committed = get(&page->committed);
	tail->open = get(&page->open);
	tail->batches = get(&page->batches);
	tail->undone = get(&page->undone);
	for (unsigned i = 0; i < ARRAY_LENGTH(log); i++)
		log[i] = get(&page->log[i]);
	memcpy(tail->log, log, sizeof(log));
	believed = get(&page->boot[0]) == this_boot[0] && get(&page->boot[1]) == this_boot[1];
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (get(&page->sequence) != sequence)
		return -EBUSY;
	return believed ? 0 : -EAGAIN;
}

int undo_tail_read(const struct undo_tail_page *page, struct undo_tail *tail)
{
	const struct timespec pause = { .tv_nsec = WAIT_NS };
	uint64_t end;
	int error = -EBUSY;

	know_boot();
	/* The disk was read before this. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (unsigned i = 0; error == -EBUSY && i < SPINS; i++)
		error = try_read(page, tail);
	if (error != -EBUSY)
		return error;
	/* It does not get the processor, or is dead. */
	end = util_now_ms() + WAIT_MS;
	do {
		nanosleep(&pause, NULL);
		error = try_read(page, tail);
	} while (error == -EBUSY && util_now_ms() < end);
	return error == -EBUSY ? -EAGAIN : error;
}

bool undo_tail_moved(const struct undo_tail_page *page, const struct undo_tail *tail)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE) != tail->generation;
}
