// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * depwrite - writes that depend on each other across disks, and a judge of
 * copies of these disks. It knows disks, files and clocks, and nothing of what
 * made the copies. Helper of the VM cases; not shipped.
 *
 *   depwrite write STATE [--threads N] [--region SECTORS] [--rate N] [--seed N]
 *		[--ring N] [--seconds N] DISK...
 *	until SIGTERM; STATE is created, on tmpfs
 *   depwrite now				the clock, in ns
 *   depwrite count STATE			records completed
 *   depwrite check STATE BEFORE AFTER [--cut NS] COPY...
 *	exit status 0 when the copies, in the order of the disks, show one instant
 *	between the clock readings BEFORE and AFTER; 1 when not; 2 cannot tell
 *
 * The writer. Each thread writes records one after the other: record I goes to
 * disk I mod N (with three disks: log, data, commit), and I + 1 is not submitted
 * before I is complete. So record I is the cause of all that come after it, on
 * whatever disk. Where a record lies in the thread's region and how long it is (1
 * to 128 sectors) is a function of the seed, the thread and I alone: records
 * overwrite each other wholly and in part, straddle granules, and share them with
 * those of other threads, while each sector has one writer. All of a sector's
 * bytes are a function of its record and place. For each record the clock is
 * read before it is submitted and after it is complete: STATE keeps both.
 *
 * The judge. Of a thread's records at any instant, a prefix is complete, at most
 * one is in flight, and the rest is not submitted. In flight means that each
 * sector of it, or even each byte, may be old or new. So for a copy to be
 * the disks at one instant T it is necessary, and sufficient as far as a
 * copy can tell, that
 *
 *	- each thread has a number F such that every sector of its regions on all
 *	  disks holds what the newest record before F left there (zeros where there
 *	  is none), but that sectors of record F may hold old or new;
 *	- T is not before the submission of any record of which something is there;
 *	- T is not after the completion of any record of which something is missing;
 *
 * with the same T for all threads and disks, and BEFORE <= T <= AFTER. The first
 * says "no effect without its cause", the last two "everything completed before
 * the cut is there, nothing submitted after it". Clocks are read outside of the
 * I/O, so what is allowed is more than what was, by the latency of one record: there are no
 * false alarms. F is found, not searched for: it is the newest record with any
 * sector, or part of one, on the copies.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC		0x6465707772697465ull	/* "depwrite" */
#define SECTOR		512u
#define RECORD_MAX	128u
#define THREADS_MAX	32u
#define DISKS_MAX	16u
/* Odd, so that no region and hardly a record begins where a granule does. */
#define FIRST_SECTOR	5u
#define REGION_DEFAULT	2051u
#define NONE		UINT64_MAX
#define SHOW_MAX	12u

/* A sector of a record. */
struct sector {
	uint64_t magic;
	uint64_t seed;
	uint32_t thread;
	uint32_t disk;
	uint64_t index;
	uint64_t position;	/* on the disk, in sectors */
	uint32_t start;		/* of the record, within the region */
	uint32_t count;
	uint64_t sum;
	uint64_t fill[57];
};
_Static_assert(sizeof(struct sector) == SECTOR, "a sector");

struct times {
	_Atomic uint64_t index;		/* whose times these are; NONE while they change */
	_Atomic uint64_t submit_ns;
	_Atomic uint64_t complete_ns;	/* 0: not complete */
};

/* STATE: this, then threads * ring times. Written by the writer alone. */
struct state {
	uint64_t magic;
	uint64_t seed;
	uint32_t threads;
	uint32_t disks;
	uint32_t region;		/* sectors */
	uint32_t ring;
	struct {
		_Atomic uint64_t submitted;
		_Atomic uint64_t completed;
	} thread[THREADS_MAX];
	struct times times[];
};

static int __attribute__((format(printf, 1, 2), noreturn)) die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "depwrite: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* splitmix64's finalizer */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t hash(uint64_t a, uint64_t b, uint64_t c)
{
	return mix(mix(mix(a + 0x9e3779b97f4a7c15ull) + b) + c);
}

//
// What record INDEX of THREAD is
//

struct record {
	uint32_t disk;
	uint32_t start;		/* within the region, sectors */
	uint32_t count;
};

static struct record record_of(const struct state *s, uint32_t thread, uint64_t index)
{
	uint64_t h = hash(s->seed, thread, index), r = mix(h);
	/* Half of the records in an eighth of the region: some sectors are overwritten soon. */
	uint32_t range = h & 8 && s->region >= 64 ? s->region / 8 : s->region;
	struct record rec = {
		.disk = (uint32_t)(index % s->disks),
		.start = (uint32_t)(h >> 16) % range,
	};

	switch (h & 7) {
	case 0:
	case 1:
		rec.count = 1;
		break;
	case 2:
	case 3:
	case 4:
		rec.count = 8;
		break;
	case 5:
		rec.count = 1 + (uint32_t)(r % 16);
		break;
	case 6:
		rec.count = 17 + (uint32_t)(r % 48);
		break;
	default:
		rec.count = 65 + (uint32_t)(r % (RECORD_MAX - 64));
		break;
	}
	if (rec.count > s->region - rec.start)
		rec.count = s->region - rec.start;
	return rec;
}

static bool covers(const struct record *rec, uint32_t disk, uint32_t x)
{
	return rec->disk == disk && x >= rec->start && x - rec->start < rec->count;
}

static uint64_t sum_of(const struct sector *sec)
{
	const uint64_t *word = (const uint64_t *)(const void *)sec;
	uint64_t sum = MAGIC;

	for (size_t i = 0; i < SECTOR / 8; i++)
		if (&word[i] != &sec->sum)
			sum = (sum ^ word[i]) * 0x9e3779b97f4a7c15ull + (sum >> 29);
	return sum;
}

/* Sector X of THREAD's region as record INDEX makes it. */
static void make_sector(const struct state *s, uint32_t thread, uint64_t index,
			const struct record *rec, uint32_t x, struct sector *out)
{
	uint64_t w = hash(s->seed, ((uint64_t)thread << 32) + x, index);

	out->magic = MAGIC;
	out->seed = s->seed;
	out->thread = thread;
	out->disk = rec->disk;
	out->index = index;
	out->position = FIRST_SECTOR + (uint64_t)thread * s->region + x;
	out->start = rec->start;
	out->count = rec->count;
	for (size_t i = 0; i < 57; i++) {
		w = w * 6364136223846793005ull + 1442695040888963407ull;
		out->fill[i] = w;
	}
	out->sum = sum_of(out);
}

static uint64_t region_offset(const struct state *s, uint32_t thread)
{
	return (FIRST_SECTOR + (uint64_t)thread * s->region) * SECTOR;
}

static size_t state_bytes(uint32_t threads, uint32_t ring)
{
	return sizeof(struct state) + (size_t)threads * ring * sizeof(struct times);
}

static struct times *times_of(struct state *s, uint32_t thread, uint64_t index)
{
	return &s->times[(size_t)thread * s->ring + index % s->ring];
}

static void note_submit(struct state *s, uint32_t thread, uint64_t index, uint64_t ns)
{
	struct times *t = times_of(s, thread, index);

	atomic_store(&t->index, NONE);
	atomic_store(&t->complete_ns, 0);
	atomic_store(&t->submit_ns, ns);
	atomic_store(&t->index, index);
	atomic_store(&s->thread[thread].submitted, index + 1);
}

static void note_complete(struct state *s, uint32_t thread, uint64_t index, uint64_t ns)
{
	atomic_store(&times_of(s, thread, index)->complete_ns, ns);
	atomic_store(&s->thread[thread].completed, index + 1);
}

//
// The writer
//

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

struct writer {
	pthread_t id;
	struct state *state;
	uint32_t thread;
	char **disks;
	uint64_t gap_ns;
};

static void put(int fd, const char *disk, const void *data, size_t len, uint64_t offset, bool nowait)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };

	/* Who must not wait is told so, and comes again: the record is in flight all the while. */
	if (nowait && pwritev2(fd, &iov, 1, (off_t)offset, RWF_NOWAIT) == (ssize_t)len)
		return;
	for (;;) {
		ssize_t n = pwrite(fd, data, len, (off_t)offset);

		if (n == (ssize_t)len)
			return;
		if (n < 0 && errno != EINTR)
			die("%s: cannot write at %" PRIu64 ": %s", disk, offset, strerror(errno));
		if (n >= 0)
			die("%s: wrote %zd of %zu bytes", disk, n, len);
	}
}

static void *write_records(void *arg)
{
	struct writer *w = arg;
	struct state *s = w->state;
	int fds[DISKS_MAX];
	struct sector *buf;
	uint64_t index = 0, next = now_ns();

	if (posix_memalign((void **)&buf, 4096, RECORD_MAX * SECTOR))
		die("no memory");
	for (uint32_t d = 0; d < s->disks; d++) {
		/* Every other thread writes with FUA, or flushes. */
		int flags = O_WRONLY | (w->thread & 1 ? O_DSYNC : 0);

		fds[d] = open(w->disks[d], flags | O_DIRECT);
		if (fds[d] < 0 && errno == EINVAL)	/* tmpfs */
			fds[d] = open(w->disks[d], flags);
		if (fds[d] < 0)
			die("%s: %s", w->disks[d], strerror(errno));
	}
	for (; !stop; index++) {
		struct record rec = record_of(s, w->thread, index);

		for (uint32_t i = 0; i < rec.count; i++)
			make_sector(s, w->thread, index, &rec, rec.start + i, &buf[i]);
		note_submit(s, w->thread, index, now_ns());
		put(fds[rec.disk], w->disks[rec.disk], buf, rec.count * SECTOR,
		    region_offset(s, w->thread) + (uint64_t)rec.start * SECTOR, index % 7 == 3);
		note_complete(s, w->thread, index, now_ns());
		if (w->gap_ns && rec.disk == s->disks - 1) {
			next += w->gap_ns;
			if (next > now_ns()) {
				struct timespec ts = {
					.tv_sec = (time_t)(next / 1000000000u),
					.tv_nsec = (long)(next % 1000000000u),
				};

				clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &ts, NULL);
			} else {
				next = now_ns();
			}
		}
	}
	for (uint32_t d = 0; d < s->disks; d++)
		close(fds[d]);
	free(buf);
	return NULL;
}

static struct state *create_state(const char *path, uint64_t seed, uint32_t threads, uint32_t disks,
				  uint32_t region, uint32_t ring)
{
	size_t bytes = state_bytes(threads, ring);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct state *s;

	if (fd < 0 || ftruncate(fd, (off_t)bytes))
		die("%s: %s", path, strerror(errno));
	s = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s == MAP_FAILED)
		die("%s: %s", path, strerror(errno));
	close(fd);
	s->seed = seed;
	s->threads = threads;
	s->disks = disks;
	s->region = region;
	s->ring = ring;
	for (size_t i = 0; i < (size_t)threads * ring; i++)
		atomic_store(&s->times[i].index, NONE);
	atomic_thread_fence(memory_order_seq_cst);
	s->magic = MAGIC;
	return s;
}

static struct state *open_state(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct state *s;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		die("%s: %s", path, strerror(errno));
	if ((size_t)st.st_size < sizeof(*s))
		die("%s: no state of a writer", path);
	s = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (s == MAP_FAILED)
		die("%s: %s", path, strerror(errno));
	close(fd);
	if (s->magic != MAGIC || (size_t)st.st_size != state_bytes(s->threads, s->ring))
		die("%s: no state of a writer", path);
	return s;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	if (*text == '\0' || *end)
		die("%s: not a number", text);
	return n;
}

static int run_writer(int argc, char **argv)
{
	uint32_t threads = 4, region = REGION_DEFAULT, ring = 1u << 17, disks = 0;
	uint64_t rate = 0, seed = 1, seconds = 0;
	struct writer writers[THREADS_MAX];
	char *names[DISKS_MAX];
	struct state *s;
	struct sigaction act = { .sa_handler = on_term };

	for (int i = 1; i < argc; i++) {
		bool more = i + 1 < argc;

		if (!strcmp(argv[i], "--threads") && more)
			threads = (uint32_t)number(argv[++i]);
		else if (!strcmp(argv[i], "--region") && more)
			region = (uint32_t)number(argv[++i]);
		else if (!strcmp(argv[i], "--ring") && more)
			ring = (uint32_t)number(argv[++i]);
		else if (!strcmp(argv[i], "--rate") && more)
			rate = number(argv[++i]);
		else if (!strcmp(argv[i], "--seed") && more)
			seed = number(argv[++i]);
		else if (!strcmp(argv[i], "--seconds") && more)
			seconds = number(argv[++i]);
		else if (disks < DISKS_MAX)
			names[disks++] = argv[i];
	}
	if (!disks || !threads || threads > THREADS_MAX || region < RECORD_MAX || !ring)
		die("see the head of its source for how it is used");
	s = create_state(argv[0], seed, threads, disks, region, ring);
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGALRM, &act, NULL);
	if (seconds)
		alarm((unsigned int)seconds);
	for (uint32_t t = 0; t < threads; t++) {
		writers[t] = (struct writer){
			.state = s, .thread = t, .disks = names,
			.gap_ns = rate ? 1000000000u / rate : 0,
		};
		if (pthread_create(&writers[t].id, NULL, write_records, &writers[t]))
			die("cannot start a thread");
	}
	for (uint32_t t = 0; t < threads; t++)
		pthread_join(writers[t].id, NULL);
	return 0;
}

static uint64_t count(const struct state *s)
{
	uint64_t n = 0;

	for (uint32_t t = 0; t < s->threads; t++)
		n += atomic_load(&s->thread[t].completed);
	return n;
}

//
// The judge
//

/* A bound on the instant, and the record that it is for. */
struct bound {
	uint64_t ns;
	uint32_t thread;
	uint64_t index;
};

struct verdict {
	uint64_t violations;
	uint64_t torn;		/* sectors in flight, partly old and partly new */
	uint64_t partial;	/* threads whose record in flight was there in part */
	struct bound from;	/* the instant is not before */
	struct bound to;	/* and not after */
	bool quiet;
};

static void __attribute__((format(printf, 2, 3))) violation(struct verdict *v, const char *fmt, ...)
{
	va_list ap;

	if (v->violations++ >= SHOW_MAX || v->quiet)
		return;
	printf("violation: ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

/* Reads the times of a record; false when the writer has overwritten them. */
static bool read_times(struct state *s, uint32_t thread, uint64_t index, uint64_t *submit,
		       uint64_t *complete)
{
	struct times *t = times_of(s, thread, index);
	uint64_t tag = atomic_load(&t->index);

	*submit = atomic_load(&t->submit_ns);
	*complete = atomic_load(&t->complete_ns);
	return tag == index && atomic_load(&t->index) == index;
}

/* Whether a record whose times are gone was complete before the cut: then a younger one was. */
static bool long_complete(struct state *s, uint32_t thread, uint64_t index, uint64_t before)
{
	uint64_t submitted = atomic_load(&s->thread[thread].submitted), submit, complete;
	uint64_t younger = submitted - s->ring + s->ring / 16;

	if (submitted > s->ring && younger > index &&
	    read_times(s, thread, younger, &submit, &complete) && complete && complete < before)
		return true;
	die("thread %u: the times of record %" PRIu64 " of %" PRIu64 " are gone: give the writer a longer --ring",
	    thread, index, submitted);
}

enum found { ZERO, VALID, FOREIGN, BAD };

static bool is_zero(const void *p)
{
	static const char zero[SECTOR];

	return !memcmp(p, zero, SECTOR);
}

/* What lies at sector X of THREAD's region on DISK; a record's number with VALID. */
static enum found look(const struct state *s, uint32_t thread, uint32_t disk, uint32_t x,
		       const struct sector *at, uint64_t *index)
{
	struct record rec;
	struct sector want;

	*index = NONE;
	if (is_zero(at))
		return ZERO;
	if (at->magic != MAGIC || at->sum != sum_of(at))
		return BAD;
	*index = at->index;
	if (at->seed != s->seed || at->thread != thread || at->disk != disk ||
	    at->index >= atomic_load(&s->thread[thread].submitted))
		return FOREIGN;
	rec = record_of(s, thread, at->index);
	if (!covers(&rec, disk, x))
		return FOREIGN;
	make_sector(s, thread, at->index, &rec, x, &want);
	return memcmp(at, &want, SECTOR) ? FOREIGN : VALID;
}

/* Sector X as record INDEX left it; zeros for NONE. */
static void content(const struct state *s, uint32_t thread, uint64_t index, uint32_t x,
		    struct sector *out)
{
	struct record rec;

	memset(out, 0, SECTOR);
	if (index == NONE)
		return;
	rec = record_of(s, thread, index);
	make_sector(s, thread, index, &rec, x, out);
}

/* Each byte is one of the old or one of the new. */
static bool is_mixture(const void *at, const struct sector *old, const struct sector *new)
{
	const uint8_t *a = at, *o = (const uint8_t *)old, *n = (const uint8_t *)new;

	for (size_t i = 0; i < SECTOR; i++)
		if (a[i] != o[i] && a[i] != n[i])
			return false;
	return true;
}

/* EXPECT[x]: the newest record before END on each sector of DISK; NONE where there is none. */
static void replay(const struct state *s, uint32_t thread, uint32_t disk, uint64_t end,
		   uint64_t *expect)
{
	uint32_t left = s->region;
	uint64_t i;

	for (uint32_t x = 0; x < s->region; x++)
		expect[x] = NONE;
	for (i = end; left && i-- > 0;) {
		struct record rec;

		if (i % s->disks != disk)
			continue;
		rec = record_of(s, thread, i);
		for (uint32_t x = rec.start; x < rec.start + rec.count; x++) {
			if (expect[x] == NONE) {
				expect[x] = i;
				left--;
			}
		}
	}
}

static const struct sector *sector_at(const struct state *s, const struct sector *copy,
				      uint32_t thread, uint32_t x)
{
	return copy + (size_t)thread * s->region + x;
}

static const char *name_of(enum found f)
{
	static const char *const names[] = { "zeros", "a record", "a foreign sector", "garbage" };

	return names[f];
}

static void check_sector(struct state *s, uint32_t thread, uint32_t disk, uint32_t x,
			 const struct sector *at, uint64_t expect, uint64_t flight,
			 const struct record *rec, bool *whole, uint64_t before, struct verdict *v)
{
	bool flying = flight != NONE && covers(rec, disk, x);
	uint64_t index, submit, complete;
	enum found f = look(s, thread, disk, x, at, &index);

	if (flying && f == VALID && index == flight)
		return;
	if (flying)
		*whole = false;
	if ((f == ZERO && expect == NONE) || (f == VALID && index == expect))
		return;
	if (flying && f == BAD) {
		struct sector old, new;

		content(s, thread, expect, x, &old);
		content(s, thread, flight, x, &new);
		if (is_mixture(at, &old, &new)) {
			v->torn++;
			return;
		}
	}
	if (f == BAD || f == FOREIGN) {
		violation(v, "%s: thread %u disk %u sector %" PRIu64 ": says thread %u disk %u record %" PRIu64 " sector %" PRIu64,
			  f == BAD ? "torn" : "misplaced", thread, disk,
			  FIRST_SECTOR + (uint64_t)thread * s->region + x, at->thread, at->disk,
			  at->index, at->position);
		return;
	}
	complete = 1;
	if (expect == NONE)	/* cannot be: a valid record that covers X would be expected */
		expect = index;
	if (read_times(s, thread, expect, &submit, &complete) && (!complete || complete >= before))
		violation(v, "effect without cause: thread %u disk %u sector %" PRIu64 ": record %" PRIu64 " is missing (there is %s %" PRIi64 "), and record %" PRIu64 " on disk %u, which came after it, is there",
			  thread, disk, FIRST_SECTOR + (uint64_t)thread * s->region + x, expect,
			  name_of(f), (int64_t)index, flight, rec->disk);
	else
		violation(v, "lost: thread %u disk %u sector %" PRIu64 ": record %" PRIu64 ", complete before the cut, is missing (there is %s %" PRIi64 ")",
			  thread, disk, FIRST_SECTOR + (uint64_t)thread * s->region + x, expect,
			  name_of(f), (int64_t)index);
}

/* Some sector of record INDEX, of which no sector is there whole, is there in part. */
static bool begun(struct state *s, struct sector *const *copies, uint32_t thread, uint64_t index,
		  uint64_t *expect)
{
	struct record rec = record_of(s, thread, index);

	replay(s, thread, rec.disk, index, expect);
	for (uint32_t x = rec.start; x < rec.start + rec.count; x++) {
		const struct sector *at = sector_at(s, copies[rec.disk], thread, x);
		struct sector old, new;
		uint64_t other;

		if (look(s, thread, rec.disk, x, at, &other) != BAD)
			continue;
		content(s, thread, expect[x], x, &old);
		content(s, thread, index, x, &new);
		if (is_mixture(at, &old, &new))
			return true;
	}
	return false;
}

static void check_thread(struct state *s, struct sector *const *copies, uint32_t thread,
			 uint64_t before, uint64_t after, struct verdict *v)
{
	uint64_t *expect = calloc(s->region, sizeof(*expect));
	uint64_t flight = NONE, next, missing, submit, complete;
	uint64_t submitted = atomic_load(&s->thread[thread].submitted);
	struct record rec = { 0 };
	bool whole = true;

	if (!expect)
		die("no memory");
	for (uint32_t d = 0; d < s->disks; d++) {
		for (uint32_t x = 0; x < s->region; x++) {
			uint64_t index;

			if (look(s, thread, d, x, sector_at(s, copies[d], thread, x), &index) == VALID &&
			    (flight == NONE || index > flight))
				flight = index;
		}
	}
	next = flight == NONE ? 0 : flight + 1;
	if (next < submitted && begun(s, copies, thread, next, expect))
		flight = next;
	if (flight != NONE)
		rec = record_of(s, thread, flight);
	for (uint32_t d = 0; d < s->disks; d++) {
		replay(s, thread, d, flight == NONE ? 0 : flight, expect);
		for (uint32_t x = 0; x < s->region; x++)
			check_sector(s, thread, d, x, sector_at(s, copies[d], thread, x), expect[x],
				     flight, &rec, &whole, before, v);
	}
	free(expect);
	if (!whole)
		v->partial++;
	if (flight != NONE) {
		if (!read_times(s, thread, flight, &submit, &complete) &&
		    long_complete(s, thread, flight, before)) {
			violation(v, "lost: thread %u: nothing is there after record %" PRIu64 ", of %" PRIu64,
				  thread, flight, submitted);
			return;
		}
		if (submit > after)
			violation(v, "after the cut: thread %u disk %u: record %" PRIu64 " is there, submitted %" PRIu64 " us after the cut",
				  thread, rec.disk, flight, (submit - after) / 1000);
		if (submit > v->from.ns)
			v->from = (struct bound){ submit, thread, flight };
	}
	missing = flight == NONE ? 0 : whole ? flight + 1 : flight;
	if (missing >= submitted)
		return;
	if (!read_times(s, thread, missing, &submit, &complete) &&
	    long_complete(s, thread, missing, before)) {
		violation(v, "lost: thread %u: record %" PRIu64 " of %" PRIu64 " is missing, and long complete",
			  thread, missing, submitted);
		return;
	}
	if (complete && complete < before)
		violation(v, "lost: thread %u disk %u: record %" PRIu64 " is missing, complete %" PRIu64 " us before the cut",
			  thread, (uint32_t)(missing % s->disks), missing, (before - complete) / 1000);
	if (complete && complete < v->to.ns)
		v->to = (struct bound){ complete, thread, missing };
}

/* COPIES: of each disk, the sectors from FIRST_SECTOR on, threads * region of them. */
static void check(struct state *s, struct sector *const *copies, uint64_t before, uint64_t after,
		  struct verdict *v)
{
	v->from = (struct bound){ before, NONE & 0xffffffff, NONE };
	v->to = (struct bound){ after, NONE & 0xffffffff, NONE };
	for (uint32_t t = 0; t < s->threads; t++)
		check_thread(s, copies, t, before, after, v);
	/* With an end that is the cut's own, the thread has said it already. */
	if (v->from.ns > v->to.ns && v->from.index != NONE && v->to.index != NONE)
		violation(v, "no one instant: record %" PRIu64 " of thread %u is there (disk %" PRIu64 "), record %" PRIu64 " of thread %u is not (disk %" PRIu64 "), and was complete %" PRIu64 " us before the other was submitted",
			  v->from.index, v->from.thread, v->from.index % s->disks, v->to.index,
			  v->to.thread, v->to.index % s->disks, (v->from.ns - v->to.ns) / 1000);
}

static struct sector *read_copy(const struct state *s, const char *path)
{
	size_t skip = FIRST_SECTOR * SECTOR, bytes, done = 0;
	int fd = open(path, O_RDONLY | O_DIRECT);
	char *buf;

	if (fd < 0 && errno == EINVAL)	/* tmpfs */
		fd = open(path, O_RDONLY);
	if (fd < 0)
		die("%s: %s", path, strerror(errno));
	bytes = (skip + (size_t)s->threads * s->region * SECTOR + 4095) & ~(size_t)4095;
	if (posix_memalign((void **)&buf, 4096, bytes))
		die("no memory");
	memset(buf, 0, bytes);
	while (done < bytes) {
		size_t want = bytes - done < 1u << 20 ? bytes - done : 1u << 20;
		ssize_t n = pread(fd, buf + done, want, (off_t)done);

		if (n < 0)
			die("%s: cannot read at %zu: %s", path, done, strerror(errno));
		if (n == 0)
			break;
		done += (size_t)n;
	}
	close(fd);
	memmove(buf, buf + skip, bytes - skip);
	return (struct sector *)(void *)buf;
}

static int run_check(int argc, char **argv)
{
	struct state *s = open_state(argv[0]);
	struct sector *copies[DISKS_MAX] = { NULL };
	struct verdict v = { 0 };
	uint64_t before = number(argv[1]), after = number(argv[2]), cut = 0;
	uint32_t n = 0;

	for (int i = 3; i < argc; i++) {
		if (!strcmp(argv[i], "--cut") && i + 1 < argc)
			cut = number(argv[++i]);
		else if (n < DISKS_MAX)
			copies[n++] = read_copy(s, argv[i]);
	}
	if (n != s->disks)
		die("%u copies of %u disks", n, s->disks);
	check(s, copies, before, after, &v);
	if (cut && (cut < v.from.ns || cut > v.to.ns) && !v.violations)
		violation(&v, "the time of the cut is wrong: %" PRIi64 " us after the earliest, %" PRIi64 " us before the latest instant that fits",
			  ((int64_t)cut - (int64_t)v.from.ns) / 1000,
			  ((int64_t)v.to.ns - (int64_t)cut) / 1000);
	printf("records=%" PRIu64 " window_us=%" PRIi64 " partial=%" PRIu64 " torn_sectors=%" PRIu64 " violations=%" PRIu64 "\n",
	       count(s), ((int64_t)v.to.ns - (int64_t)v.from.ns) / 1000, v.partial, v.torn,
	       v.violations);
	while (n)
		free(copies[--n]);
	munmap(s, state_bytes(s->threads, s->ring));
	return v.violations ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";

	if (!strcmp(cmd, "write") && argc >= 4)
		return run_writer(argc - 2, argv + 2);
	if (!strcmp(cmd, "check") && argc >= 6)
		return run_check(argc - 2, argv + 2);
	if (!strcmp(cmd, "count") && argc == 3) {
		printf("%" PRIu64 "\n", count(open_state(argv[2])));
		return 0;
	}
	if (!strcmp(cmd, "now")) {
		printf("%" PRIu64 "\n", now_ns());
		return 0;
	}
	die("see the head of its source for how it is used");
}
