// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spool_recover: rebuild the index of a machine's spool from its segment files. Called once for each
 * machine at start. Whatever a kill or a power cut left behind, the result is a list of epochs
 * that are whole, checked to the last byte, and in the order in which they were appended.
 *
 *	found						done
 *	a torn tail in the newest segment		cut off
 *	an epoch without END at the tail		closed with ABORT
 *	a bad frame in an older segment			cut there; what follows is removed when no epoch
 *							ends in it (a power cut), else it cannot be
 *							applied any more: set aside (*.damaged), said aloud
 *	a gap in the numbers				segments in between were freed: an open epoch ends
 *	a file that is no segment of this machine	set aside
 *	the header of an earlier life (segment.h)	removed: the new one was just being made
 *	a spare						removed: nothing in it is needed
 *
 * Nothing is ever appended to a recovered segment: what lies behind a cut could look like frames.
 */
#include "spool.h"
#include "log.h"
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

struct recovery {
	struct spool *spool;
	struct spool_segment *segment;
	struct spool_epoch *open;
	uint64_t digest;
	bool broken; /* a frame that does not belong here */
	uint64_t bad_offset;
};

static uint64_t position(const struct recovery *r, uint64_t offset)
{
	return r->segment->base + offset - SEGMENT_HEADER_BYTES;
}

/* The open epoch will get no more frames. */
static void drop_open(struct recovery *r, uint64_t end)
{
	if (!r->open)
		return;
	r->open->state = SPOOL_ABORTED;
	r->open->end = end;
	r->open = NULL;
}

static int take_begin(struct recovery *r, const struct wire_frame *f, uint64_t pos)
{
	struct spool_epoch *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	drop_open(r, pos);
	e->epoch = f->epoch;
	e->attempt = f->attempt;
	e->previous = f->offset;
	e->flags = f->flags;
	e->start = pos;
	e->frames = 1;
	spool_add_epoch(r->spool, e);
	r->open = e;
	r->digest = 0;
	return 0;
}

static int take_frame(const struct wire_frame *f, uint64_t offset, void *user)
{
	struct recovery *r = user;
	uint64_t pos = position(r, offset), end = pos + WIRE_HEADER_BYTES + f->payload_bytes;
	struct spool_epoch *e = r->open;

	if (f->type == WIRE_BEGIN)
		return take_begin(r, f, pos);
	if (f->type == WIRE_ABORT) {
		struct spool_epoch *last = r->spool->epochs_last;

		drop_open(r, end);
		/* also of an epoch that was ended, but could not be made durable */
		if (last && last->epoch == f->epoch && last->attempt == f->attempt)
			last->state = SPOOL_ABORTED;
		return 0;
	}
	if (!wire_in_digest(f->type) && f->type != WIRE_END) {
		r->broken = true;
		r->bad_offset = offset;
		return -ECANCELED;
	}
	if (!e) /* the rest of an epoch whose beginning is freed */
		return 0;
	if (f->epoch != e->epoch || f->attempt != e->attempt || f->seq != e->frames) {
		r->broken = true;
		r->bad_offset = offset;
		return -ECANCELED;
	}
	e->frames++;
	if (f->type != WIRE_END) {
		r->digest = wire_digest_add(r->digest, f);
		if (f->type == WIRE_DATA || f->type == WIRE_ZERO)
			e->data_bytes += f->length;
		return 0;
	}
	e->end = end;
	e->state = f->offset == r->digest && f->length == e->data_bytes ? SPOOL_COMPLETE : SPOOL_ABORTED;
	if (e->state == SPOOL_COMPLETE && e->epoch > r->spool->last_complete)
		r->spool->last_complete = e->epoch;
	r->open = NULL;
	return 0;
}

static void set_aside(struct spool *spool, const char *name, const char *why)
{
	char aside[300];

	snprintf(aside, sizeof(aside), "%s.damaged", name);
	spool->damaged_segments++;
	if (renameat(spool->dirfd, name, spool->dirfd, aside) < 0)
		log_error("spool of machine %s: %s: cannot set it aside: %s", spool->machine, name, strerror(errno));
	else
		log_error("spool of machine %s: %s: %s; kept as %s (epochs that it held are asked for again; remove it when "
			  "it is no longer of interest)", spool->machine, name, why, aside);
}

/* Cut the file behind its good part, and end it with ABORT where an epoch is open. */
static int finish_tail(struct recovery *r, const char *name, uint64_t *end, bool abort)
{
	CLEANUP_FD int fd = openat(r->spool->dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	uint8_t header[WIRE_HEADER_BYTES];

	if (fd < 0 || ftruncate(fd, (off_t)*end) < 0 || fdatasync(fd) < 0)
		return -errno;
	if (abort && r->open) {
		struct wire_frame frame = { .type = WIRE_ABORT, .epoch = r->open->epoch, .attempt = r->open->attempt,
					    .seq = r->open->frames };

		wire_encode(&frame, header);
		segment_mark(header, r->segment->number);
		if (pwrite(fd, header, sizeof(header), (off_t)*end) != (ssize_t)sizeof(header))
			return errno ? -errno : -EIO;
		*end += sizeof(header);
		log_notice("spool of machine %s: epoch %" PRIu64 " was not whole: dropped (its agent sends it again)",
			   r->spool->machine, r->open->epoch);
		drop_open(r, position(r, *end));
	}
	/* Whole blocks, so that O_DIRECT can read to the end. */
	if (ftruncate(fd, (off_t)spool_round_up(*end)) < 0 || fdatasync(fd) < 0)
		return -errno;
	return 0;
}

static int seek_end(const struct wire_frame *f, uint64_t offset, void *user)
{
	(void)offset;
	(void)user;
	return f->type == WIRE_END ? -ECANCELED : 0;
}

/* Whether a segment holds the end of an epoch: only then can anything in it have been acknowledged. */
static bool holds_end(struct spool *spool, uint64_t number, const char *name, void *buffer)
{
	CLEANUP_FD int fd = openat(spool->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct segment_header header;
	enum segment_end how;
	uint64_t end;

	return fd < 0 || (segment_scan(fd, buffer, &header, seek_end, NULL, &end, &how) == -ECANCELED &&
			  header.number == number);
}

/* Look at the header. Return: 0 it is good, 1 the file is dealt with, or negative errno. */
static int check_header(struct spool *spool, int fd, const char *name, uint64_t number, bool newest, char *block)
{
	struct segment_header header;
	ssize_t n = pread(fd, block, SEGMENT_HEADER_BYTES, 0);
	int error;

	if (n < 0)
		return -errno;
	memset(block + n, 0, SEGMENT_HEADER_BYTES - (size_t)n);
	error = segment_decode(block, &header);
	if (!error && (memcmp(header.machine, spool->machine, SEGMENT_MACHINE_BYTES) || header.number != number))
		error = -EXDEV;
	if (!error)
		return 0;
	/* A header that never reached the disk: the segment was just being made. */
	if ((newest && wire_is_zero(block, SEGMENT_HEADER_BYTES)) ||
	    (error == -EXDEV && header.number < number &&
	     !memcmp(header.machine, spool->machine, SEGMENT_MACHINE_BYTES)))
		return unlinkat(spool->dirfd, name, 0) < 0 ? -errno : 1;
	set_aside(spool, name, error == -EPROTONOSUPPORT ? "it is of another version" :
			       error == -EXDEV ? "it is another machine's" : "its header is damaged");
	return 1;
}

static int recover_segment(struct recovery *r, uint64_t number, bool newest, void *buffer, bool *stop)
{
	struct spool *spool = r->spool;
	struct spool_segment *s;
	struct segment_header header;
	enum segment_end how;
	char name[SEGMENT_NAME_BYTES];
	struct stat status;
	uint64_t end;
	int error;

	segment_name(number, name);
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->spool = spool;
	s->number = number;
	s->base = spool_round_up(spool->head);
	s->closed = s->named = s->headed = true;
	r->segment = s;
	r->broken = false;
	s->fd = openat(spool->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	error = s->fd < 0 ? -errno : check_header(spool, s->fd, name, number, newest, buffer);
	if (!error) {
		error = segment_scan(s->fd, buffer, &header, take_frame, r, &end, &how);
		if (error == -ECANCELED && r->broken) {
			error = 0;
			how = SEGMENT_END_TORN;
		}
	}
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	if (error) {
		drop_open(r, spool->head);
		free(s);
		return error > 0 ? 0 : error;
	}
	if (how == SEGMENT_END_TORN && !newest) {
		log_warning("spool of machine %s: %s: no good frame at byte %" PRIu64 ", although segments follow",
			    spool->machine, name, end);
		*stop = true;
	}
	if (newest || *stop) {
		error = finish_tail(r, name, &end, true);
		if (error) {
			free(s);
			return error;
		}
	}
	s->fd = openat(spool->dirfd, name, spool_segment_open_flags(spool->store));
	if (s->fd < 0 && errno == EINVAL && spool->store->direct) {
		spool->store->direct = false;
		s->fd = openat(spool->dirfd, name, spool_segment_open_flags(spool->store));
	}
	if (s->fd < 0 || fstat(s->fd, &status) < 0) {
		error = -errno;
		if (s->fd >= 0)
			close(s->fd);
		free(s);
		return error;
	}
	s->header_complete = header.last_complete;
	s->holds_complete = spool->last_complete;
	s->end = s->synced = s->sealed = s->sealed_durable = position(r, end);
	s->file_bytes = (uint64_t)status.st_size;
	s->room_bytes = end - SEGMENT_HEADER_BYTES;
	spool->head = s->end;
	spool->bytes += s->file_bytes;
	spool->store->used_bytes += s->file_bytes;
	spool->segment_count++;
	if (spool->last)
		spool->last->next = s;
	else
		spool->first = s;
	spool->last = s;
	return 0;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The numbers of the segments, ascending; allocated. */
static int list_segments(struct spool *spool, uint64_t **numbers, size_t *count)
{
	int fd = openat(spool->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	size_t room = 0;
	int error = 0;

	*numbers = NULL;
	*count = 0;
	if (!dir) {
		error = -errno;
		if (fd >= 0)
			close(fd);
		return error;
	}
	while (!error) {
		struct dirent *entry;
		uint64_t number;

		errno = 0;
		entry = readdir(dir);
		if (!entry) {
			error = -errno;
			break;
		}
		if (segment_spare_number(entry->d_name, &number) && unlinkat(spool->dirfd, entry->d_name, 0) < 0) {
			error = -errno;
			break;
		}
		if (!segment_number(entry->d_name, &number))
			continue;
		if (*count == room) {
			uint64_t *more = realloc(*numbers, (room = room * 2 + 64) * sizeof(number));

			if (!more) {
				error = -ENOMEM;
				break;
			}
			*numbers = more;
		}
		(*numbers)[(*count)++] = number;
	}
	closedir(dir);
	if (!error && *count)
		qsort(*numbers, *count, sizeof(**numbers), compare);
	return error;
}

/*
 * What the headers say of the machine's state, before anything is removed: a segment that is cut off
 * may be the only one that knows that an epoch, freed since, was complete.
 */
static int carry_over(struct spool *spool, const uint64_t *numbers, size_t count, char *block)
{
	for (size_t i = 0; i < count; i++) {
		struct segment_header header;
		char name[SEGMENT_NAME_BYTES];
		CLEANUP_FD int fd = -1;

		if (numbers[i] < spool->first_number)
			continue;
		segment_name(numbers[i], name);
		fd = openat(spool->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0)
			return -errno;
		if (pread(fd, block, SEGMENT_HEADER_BYTES, 0) != SEGMENT_HEADER_BYTES || segment_decode(block, &header) ||
		    memcmp(header.machine, spool->machine, SEGMENT_MACHINE_BYTES) || header.number != numbers[i])
			continue; /* recover_segment() judges it */
		if (header.last_complete > spool->last_complete)
			spool->last_complete = header.last_complete;
		if (header.last_applied > spool->last_applied)
			spool->last_applied = header.last_applied;
		if (header.max_epoch > spool->max_epoch)
			spool->max_epoch = header.max_epoch;
	}
	return spool->last_complete > spool->saved_complete ? spool->ops->save(spool->user) : 0;
}

static int recover(struct spool *spool)
{
	CLEANUP_FREE uint64_t *numbers = NULL;
	CLEANUP_FREE void *buffer = malloc(SEGMENT_SCAN_BYTES);
	struct recovery r = { .spool = spool };
	uint64_t before = 0;
	bool stop = false;
	size_t count;
	int error;

	if (!buffer)
		return -ENOMEM;
	error = list_segments(spool, &numbers, &count);
	if (!error)
		error = carry_over(spool, numbers, count, buffer);
	for (size_t i = 0; i < count && !error; i++) {
		char name[SEGMENT_NAME_BYTES];

		segment_name(numbers[i], name);
		if (numbers[i] >= spool->next_number)
			spool->next_number = numbers[i] + 1;
		if (numbers[i] < spool->first_number) {
			if (unlinkat(spool->dirfd, name, 0) < 0)
				error = -errno;
			continue;
		}
		if (stop) {
			/* Written ahead of the cut and never acknowledged, unless an epoch ends in it. */
			if (holds_end(spool, numbers[i], name, buffer))
				set_aside(spool, name, "it follows a damaged segment (check the disk)");
			else if (unlinkat(spool->dirfd, name, 0) < 0)
				error = -errno;
			continue;
		}
		if (before && numbers[i] != before + 1)
			drop_open(&r, spool->head);
		before = numbers[i];
		error = recover_segment(&r, numbers[i], i + 1 == count, buffer, &stop);
	}
	if (r.open) /* its segment was set aside or never made */
		drop_open(&r, spool->head);
	return error;
}

int spool_open(struct spool **out, struct spool_store *store, const char *machine, const struct spool_known *known,
	       const struct spool_ops *ops, void *user, char *error, size_t error_bytes)
{
	struct spool *spool = calloc(1, sizeof(*spool));
	int r = 0;

	*out = spool; /* @save needs it */
	if (!spool)
		return -ENOMEM;
	spool->store = store;
	spool->ops = ops;
	spool->user = user;
	snprintf(spool->machine, sizeof(spool->machine), "%s", machine);
	spool->next_number = 1;
	if (known) {
		/* Epochs that were applied and freed count, too. If one was lost instead, the master
		 * target is behind it, and downstream.c finds that out. */
		spool->last_complete = known->last_complete;
		spool->last_applied = known->last_applied;
		spool->max_epoch = known->max_epoch;
		spool->saved_complete = known->last_complete;
		spool->first_number = known->first_number;
		if (known->first_number > spool->next_number)
			spool->next_number = known->first_number;
	}
	if (mkdirat(store->dirfd, machine, 0700) < 0 && errno != EEXIST)
		r = -errno;
	spool->dirfd = r ? -1 : openat(store->dirfd, machine, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (!r && spool->dirfd < 0)
		r = -errno;
	if (!r && fsync(store->dirfd) < 0)
		r = -errno;
	if (!r)
		r = recover(spool);
	if (r) {
		snprintf(error, error_bytes, "spool of machine %s in %s: cannot recover it: %s (check the disk and the "
			 "permissions; nothing was removed)", machine, store->path, strerror(-r));
		spool_free(spool);
		*out = NULL;
		return r;
	}
	/* Epochs of before the last one that was applied are of no use. */
	spool->written = spool->issued = spool->reserved = spool_round_up(spool->head);
	spool_applied(spool, spool->last_applied);
	return 0;
}
