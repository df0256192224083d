// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * freeze: see freeze.h. Two pipes to the helper: commands down ('T' thaw, 'K' keep; its end
 * means thaw), reports up (struct report).
 */
#include "freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "util.h"

enum freeze_state { FREEZE_FREEZING, FREEZE_FROZEN, FREEZE_THAWING, FREEZE_KEPT, FREEZE_DONE };

struct report {
	char what; /* 'F' frozen, 'E' failed to, 'D' all thawed (index: because it was told to) */
	int index, error;
};

struct freeze {
	enum freeze_state state;
	struct mount_entry *list;
	size_t count, frozen;
	const struct freeze_hooks *hooks;
	void *user;
	pid_t pid;
	int commands, reports;
	uint64_t each_ms;
	sd_event_source *source, *timer;
};

/* The helper. */

static void helper_report(int fd, char what, size_t index, int error)
{
	struct report report = { what, (int)index, error };
	ssize_t n;

	do {
		n = write(fd, &report, sizeof(report));
	} while (n < 0 && errno == EINTR);
	/* Nobody reads any more: the command pipe says so too. */
}

/* A command is there, 'T' or 'K'; 0: the agent is gone. */
static char helper_command(int fd)
{
	char c = 0;

	return read(fd, &c, 1) == 1 ? c : 0;
}

static int thaw_fd(int fd)
{
	/* EINVAL: is not frozen. */
	return ioctl(fd, FITHAW, 0) < 0 && errno != EINVAL ? -errno : 0;
}

/*
 * struct freezer - what the two threads of the helper share
 * @lock: protects @frozen and @stop
 * @frozen: the first so many are
 * @stop: freeze no more; what gets frozen all the same is thawed by the freezing thread
 * @failed: eventfd, written when freezing failed
 */
struct freezer {
	pthread_mutex_t lock;
	int fds[MOUNTS_MAX];
	size_t count, frozen;
	bool stop;
	int failed, reports;
};

static void *freezer_thread(void *argument)
{
	struct freezer *freezer = argument;
	uint64_t one = 1;

	for (size_t i = 0; i < freezer->count; i++) {
		int rc;
		bool stop;

		pthread_mutex_lock(&freezer->lock);
		stop = freezer->stop;
		pthread_mutex_unlock(&freezer->lock);
		if (stop)
			break;
		rc = ioctl(freezer->fds[i], FIFREEZE, 0) < 0 ? errno : 0;
		pthread_mutex_lock(&freezer->lock);
		stop = freezer->stop;
		if (!rc && !stop) {
			freezer->frozen = i + 1;
			helper_report(freezer->reports, 'F', i, 0);
		}
		pthread_mutex_unlock(&freezer->lock);
		if (!rc && stop) {
			thaw_fd(freezer->fds[i]);
			break;
		}
		if (rc) {
			/* EBUSY: someone else has frozen it; it would be thawed behind our back. */
			helper_report(freezer->reports, 'E', i, rc);
			if (write(freezer->failed, &one, sizeof(one)) < 0)
				break; /* the agent tells us as well */
			break;
		}
	}
	return NULL;
}

/* Wait for a command, the failure of the thread, or the end of our time. */
static char helper_wait(const struct freezer *freezer, int commands, uint64_t end_ms)
{
	for (;;) {
		struct pollfd poll_fds[] = { { commands, POLLIN, 0 }, { freezer->failed, POLLIN, 0 } };
		uint64_t now = util_now_ms();
		int rc;

		if (now >= end_ms)
			return 0;
		rc = poll(poll_fds, 2, end_ms - now > INT32_MAX ? INT32_MAX : (int)(end_ms - now));
		if (rc > 0 && poll_fds[0].revents)
			return helper_command(commands);
		if (rc > 0)
			return 'E';
	}
}

static void __attribute__((noreturn)) helper(const struct freeze *freeze, int commands, int reports,
					     uint64_t limit_ms)
{
	static struct freezer freezer = { .lock = PTHREAD_MUTEX_INITIALIZER };
	uint64_t end = util_now_ms() + limit_ms;
	pthread_t thread;
	char command = 0;
	int rc = 0;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_IGN); /* who stops the agent, ends the pipe */
	signal(SIGINT, SIG_IGN);
	/* Nothing of the agent's stays open here, not its connection, not the other pipe ends. */
	commands = fcntl(commands, F_DUPFD, 64);
	reports = fcntl(reports, F_DUPFD, 64);
	if (commands < 0 || reports < 0 || dup2(commands, 3) < 0 || dup2(reports, 4) < 0)
		_exit(1);
	commands = 3;
	reports = 4;
	close_range(5, ~0u, 0);
	(void)mlockall(MCL_CURRENT); /* a help only: a frozen filesystem can still be read */
	freezer.count = freeze->count;
	freezer.reports = reports;
	freezer.failed = eventfd(0, EFD_CLOEXEC);
	for (size_t i = 0; i < freeze->count; i++) {
		freezer.fds[i] = open(freeze->list[i].point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (freezer.fds[i] < 0)
			freezer.fds[i] = open(freeze->list[i].point, O_RDONLY | O_CLOEXEC);
		if (freezer.fds[i] < 0) {
			helper_report(reports, 'E', i, errno);
			helper_report(reports, 'D', 1, 0);
			_exit(1);
		}
	}
	rc = pthread_create(&thread, NULL, freezer_thread, &freezer);
	if (rc) {
		helper_report(reports, 'E', 0, rc);
		helper_report(reports, 'D', 1, 0);
		_exit(1);
	}
	command = helper_wait(&freezer, commands, end);
	rc = 0;
	pthread_mutex_lock(&freezer.lock);
	freezer.stop = command != 'K';
	if (freezer.stop)
		for (size_t i = freezer.frozen; i-- > 0;)
			if (thaw_fd(freezer.fds[i]) < 0)
				rc = errno;
	pthread_mutex_unlock(&freezer.lock);
	/* It may be inside FIFREEZE, and has to thaw that one. */
	pthread_join(thread, NULL);
	helper_report(reports, 'D', command == 'T' || command == 'E', rc);
	_exit(rc ? 1 : 0);
}

/* The agent's side. */

static void freeze_over(struct freeze *freeze, int rc, bool asked)
{
	freeze->state = FREEZE_DONE;
	sd_event_source_set_enabled(freeze->timer, SD_EVENT_OFF);
	sd_event_source_set_enabled(freeze->source, SD_EVENT_OFF);
	freeze->hooks->thawed(freeze->user, rc, asked);
}

static void freeze_failed(struct freeze *freeze, size_t index, int rc)
{
	freeze_thaw(freeze);
	freeze->hooks->frozen(freeze->user, rc,
			      index < freeze->count ? freeze->list[index].point : "?");
}

static void freeze_timer(struct freeze *freeze, uint64_t ms)
{
	sd_event_source_set_time_relative(freeze->timer, ms * 1000);
	sd_event_source_set_enabled(freeze->timer, SD_EVENT_ONESHOT);
}

static void freeze_complete(struct freeze *freeze)
{
	freeze->state = FREEZE_FROZEN;
	sd_event_source_set_enabled(freeze->timer, SD_EVENT_OFF);
	freeze->hooks->frozen(freeze->user, 0, NULL);
}

static int on_report(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct freeze *freeze = user;
	struct report report;
	ssize_t n = read(fd, &report, sizeof(report));

	(void)source;
	(void)revents;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n != (ssize_t)sizeof(report)) {
		/* The helper is gone without a word: somebody killed it. What it held is still frozen. */
		report = (struct report){ 'D', 0, 0 };
		if (freeze->state != FREEZE_KEPT && freeze_thaw_list(freeze->list, freeze->count))
			report.error = ESRCH;
	}
	if (report.what == 'F' && freeze->state == FREEZE_FREEZING) {
		freeze->frozen = (size_t)report.index + 1;
		freeze_timer(freeze, freeze->each_ms);
		if (freeze->frozen == freeze->count)
			freeze_complete(freeze);
	} else if (report.what == 'E' && freeze->state == FREEZE_FREEZING) {
		freeze_failed(freeze, (size_t)report.index, -report.error);
	} else if (report.what == 'D') {
		if (freeze->state == FREEZE_KEPT)
			sd_event_source_set_enabled(freeze->source, SD_EVENT_OFF);
		else if (freeze->state != FREEZE_DONE)
			freeze_over(freeze, -report.error, report.index != 0);
	}
	return 0;
}

static int on_freeze_timer(sd_event_source *source, uint64_t usec, void *user)
{
	struct freeze *freeze = user;

	(void)source;
	(void)usec;
	if (freeze->state == FREEZE_FREEZING && !freeze->count)
		freeze_complete(freeze);
	else if (freeze->state == FREEZE_FREEZING)
		freeze_failed(freeze, freeze->frozen, -ETIME);
	else if (freeze->state == FREEZE_THAWING)
		freeze_over(freeze, -ETIME, false);
	return 0;
}

static void freeze_command(struct freeze *freeze, char command)
{
	ssize_t n;

	do {
		n = write(freeze->commands, &command, 1);
	} while (n < 0 && errno == EINTR);
	if (n != 1 && errno != EPIPE) /* else it has ended, its report is on the way */
		log_error("freeze helper %d: cannot be told to %s: %s", (int)freeze->pid,
			  command == 'T' ? "thaw" : "end", strerror(errno));
}

void freeze_thaw(struct freeze *freeze)
{
	if (freeze->state != FREEZE_FREEZING && freeze->state != FREEZE_FROZEN)
		return;
	freeze->state = FREEZE_THAWING;
	freeze_command(freeze, 'T');
	freeze_timer(freeze, FREEZE_THAW_MS);
}

void freeze_keep(struct freeze *freeze)
{
	if (freeze->state != FREEZE_FROZEN)
		return;
	freeze->state = FREEZE_KEPT;
	freeze_command(freeze, 'K');
}

void freeze_free(struct freeze *freeze)
{
	if (!freeze)
		return;
	sd_event_source_disable_unref(freeze->source);
	sd_event_source_disable_unref(freeze->timer);
	if (freeze->commands >= 0)
		close(freeze->commands);
	if (freeze->reports >= 0)
		close(freeze->reports);
	/* A helper that is stuck in FIFREEZE thaws and ends by itself; it is not waited for. */
	if (freeze->pid > 0)
		waitpid(freeze->pid, NULL, WNOHANG);
	free(freeze->list);
	free(freeze);
}

int freeze_start(struct freeze **out, sd_event *event, const struct mount_entry *list, size_t count,
		 uint64_t each_ms, uint64_t limit_ms, const struct freeze_hooks *hooks, void *user)
{
	struct freeze *freeze = calloc(1, sizeof(*freeze));
	int down[2] = { -1, -1 }, up[2] = { -1, -1 }, rc;

	if (!freeze)
		return -ENOMEM;
	freeze->commands = freeze->reports = -1;
	freeze->hooks = hooks;
	freeze->user = user;
	freeze->count = count;
	freeze->each_ms = each_ms;
	freeze->list = malloc((count ? count : 1) * sizeof(*list));
	if (!freeze->list || count > MOUNTS_MAX) {
		freeze_free(freeze);
		return -ENOMEM;
	}
	memcpy(freeze->list, list, count * sizeof(*list));
	if (pipe2(down, O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC) < 0) {
		rc = -errno;
		goto fail;
	}
	freeze->pid = fork();
	if (freeze->pid < 0) {
		rc = -errno;
		goto fail;
	}
	if (!freeze->pid)
		helper(freeze, down[0], up[1], limit_ms);
	close(down[0]);
	close(up[1]);
	freeze->commands = down[1];
	freeze->reports = up[0];
	fcntl(freeze->reports, F_SETFL, O_NONBLOCK);
	rc = sd_event_add_io(event, &freeze->source, freeze->reports, EPOLLIN, on_report, freeze);
	if (rc >= 0)
		rc = sd_event_add_time_relative(event, &freeze->timer, CLOCK_BOOTTIME,
						count ? each_ms * 1000 : 0, 1000,
						on_freeze_timer, freeze);
	if (rc < 0) {
		freeze_free(freeze);
		return rc;
	}
	*out = freeze;
	return 0;
fail:
	for (int i = 0; i < 2; i++) {
		if (down[i] >= 0)
			close(down[i]);
		if (up[i] >= 0)
			close(up[i]);
	}
	freeze_free(freeze);
	return rc;
}

size_t freeze_thaw_list(const struct mount_entry *list, size_t count)
{
	size_t failed = 0;

	for (size_t i = count; i-- > 0;) {
		CLEANUP_FD int fd = open(list[i].point, O_RDONLY | O_CLOEXEC);
		int rc = fd < 0 ? -errno : thaw_fd(fd);

		if (rc) {
			log_error("filesystem %s: cannot thaw: %s (by hand: fsfreeze -u %s)",
				  list[i].point, strerror(-rc), list[i].point);
			failed++;
		}
	}
	return failed;
}
