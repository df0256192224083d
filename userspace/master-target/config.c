// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * config: the table of keys of master-target.conf. Called by main.c; promises that a
 * config it returns is whole and within bounds.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include <sys/stat.h>

#include "conf.h"
#include "config.h"
#include "retention_volume.h"
#include "util.h"

#define MT "master-target"
#define KEEP_MAX_MS (10ull * 365 * 86400 * 1000)
#define KEY(member) offsetof(struct config, member)
#define TARGET(member) offsetof(struct config_target, member)

static const char *const fulls[] = { "drop-oldest", "pause", NULL };
static const char *const engines[] = { "auto", "io_uring", "libaio", NULL };

static const struct conf_key keys[] = {
	{ MT, "listen", CONF_STRING, KEY(listen), "127.0.0.1:9921", 0, 0, NULL,
	  "address for process servers; loopback only" },
	{ MT, "state", CONF_STRING, KEY(state_dir), "/var/lib/reprotect/master-target", 0, 0, NULL,
	  "directory of what must survive a restart" },
	{ MT, "control", CONF_STRING, KEY(control), "/run/reprotect/master-target.sock", 0, 0, NULL,
	  "socket for the command line" },
	{ MT, "target_dir", CONF_STRING, KEY(target_dir), NULL, 0, 0, NULL,
	  "image files <target_dir>/<host>/<disk>.img for disks without a [target] section" },
	{ MT, "create", CONF_BOOL, KEY(create), "no", 0, 0, NULL,
	  "create missing image files under target_dir, sparse" },
	{ MT, "buffers", CONF_BYTES, KEY(buffer_bytes), "64M", 16 * MIB, 4 * GIB, NULL,
	  "memory for data on its way to the targets, shared by all machines" },
	{ MT, "max_epoch", CONF_BYTES, KEY(max_epoch_bytes), "1G", 4 * MIB, 1024 * GIB, NULL,
	  "largest epoch that an agent may send" },
	{ MT, "max_machines", CONF_NUMBER, KEY(max_machines), "64", 1, 1024, NULL,
	  "machines that this master target serves at most" },
	{ MT, "engine", CONF_CHOICE, KEY(engine), "auto", 0, 0, engines,
	  "how disks are written: auto, io_uring or libaio" },
	{ MT, "retention", CONF_STRING, KEY(retention), NULL, 0, 0, NULL,
	  "directory of the undo logs, on a file system of its own; none: no recovery points but the newest "
	  "(default: " RETENTION_PATH_DEFAULT " where something is mounted there)" },
	{ MT, "keep_all", CONF_MS, KEY(policy.keep_all_ms), "2h", 0, KEEP_MAX_MS, NULL,
	  "how long every recovery point is kept" },
	{ MT, "keep_hourly", CONF_MS, KEY(policy.keep_hourly_ms), "24h", 0, KEEP_MAX_MS, NULL,
	  "how long one crash-consistent point an hour is kept" },
	{ MT, "keep_app", CONF_MS, KEY(policy.keep_app_ms), "72h", 0, KEEP_MAX_MS, NULL,
	  "how long application-consistent points are kept" },
	{ MT, "retention_max", CONF_BYTES, KEY(policy.max_bytes), "0", 0, UINT64_MAX, NULL,
	  "what all undo logs may take together; 0: the whole volume" },
	{ MT, "retention_reserve", CONF_BYTES, KEY(policy.reserve_bytes), "0", 0, UINT64_MAX, NULL,
	  "space on the volume below which the oldest points go; 0: 256M, but no more than a twentieth of it" },
	{ MT, "retention_full", CONF_CHOICE, KEY(retention_full), "drop-oldest", 0, 0, fulls,
	  "when the volume is full: drop-oldest (points, replication goes on) or pause (replication)" },
	{ "target", "path", CONF_STRING, TARGET(path), NULL, 0, 0, NULL,
	  "block device or image file that receives the disk" },
	{ "target", "overwrite", CONF_BOOL, TARGET(overwrite), "no", 0, 0, NULL,
	  "use it although it carries something else" },
	{ NULL, NULL, CONF_STRING, 0, NULL, 0, 0, NULL, NULL },
};

static void *section(void *user, const char *kind, const char *name)
{
	struct config *config = user;
	struct config_target **at = &config->targets;

	if (!strcmp(kind, MT))
		return name && *name ? NULL : config;
	if (strcmp(kind, "target") || !name || !strchr(name, '/'))
		return NULL;
	for (; *at; at = &(*at)->next)
		if (!strcasecmp((*at)->name, name))
			return *at;
	struct config_target *target = calloc(1, sizeof(*target));

	if (!target)
		return NULL;
	target->name = strdup(name);
	if (!target->name) {
		free(target);
		return NULL;
	}
	*at = target;
	return target;
}

static const struct conf_schema schema = { .keys = keys, .section = section };

static int check(const struct config *config, const char *path, char *error, size_t error_bytes)
{
	for (const struct config_target *t = config->targets; t; t = t->next) {
		if (!t->path || t->path[0] != '/') {
			snprintf(error, error_bytes,
				 "%s: [target %s]: path is missing or not absolute (write path = /dev/... "
				 "or the full name of an image file)",
				 path, t->name);
			return -EINVAL;
		}
		for (const struct config_target *o = t->next; o; o = o->next)
			if (o->path && !strcmp(o->path, t->path)) {
				snprintf(error, error_bytes,
					 "%s: [target %s] and [target %s] both name %s (give each disk its "
					 "own target)",
					 path, t->name, o->name, t->path);
				return -EINVAL;
			}
	}
	if (config->target_dir && config->target_dir[0] != '/') {
		snprintf(error, error_bytes, "%s: target_dir = %s: not an absolute path", path,
			 config->target_dir);
		return -EINVAL;
	}
	if (config->retention && strcmp(config->retention, "none") && config->retention[0] != '/') {
		snprintf(error, error_bytes, "%s: retention = %s: not an absolute path (nor none)", path, config->retention);
		return -EINVAL;
	}
	if (config->create && !config->target_dir) {
		snprintf(error, error_bytes, "%s: create = yes needs target_dir (where the image files go)",
			 path);
		return -EINVAL;
	}
	return 0;
}

static bool mount_point(const char *path)
{
	struct stat st, above;
	char parent[4096];

	snprintf(parent, sizeof(parent), "%s/..", path);
	return !stat(path, &st) && !stat(parent, &above) && S_ISDIR(st.st_mode) && st.st_dev != above.st_dev;
}

/* What the keys mean together. */
static int settle(struct config *config)
{
	config->policy.pause_when_full = config->retention_full == CONFIG_FULL_PAUSE;
	if (config->retention && !strcmp(config->retention, "none")) {
		free(config->retention);
		config->retention = NULL;
	} else if (!config->retention && mount_point(RETENTION_PATH_DEFAULT)) {
		config->retention = strdup(RETENTION_PATH_DEFAULT);
		return config->retention ? 0 : -ENOMEM;
	}
	return 0;
}

int config_load(struct config *config, const char *path, char *error, size_t error_bytes)
{
	int r = 0;

	memset(config, 0, sizeof(*config));
	if (!path)
		conf_defaults(&schema, MT, config);
	else
		r = conf_load(&schema, path, config, error, error_bytes);
	if (!r && !config->listen) /* the file has no [master-target] section */
		conf_defaults(&schema, MT, config);
	if (!r)
		r = check(config, path ? path : "defaults", error, error_bytes);
	if (!r)
		r = settle(config);
	if (r)
		config_free(config);
	return r;
}

void config_free(struct config *config)
{
	struct config_target *next;

	for (struct config_target *t = config->targets; t; t = next) {
		next = t->next;
		conf_free(&schema, "target", t);
		free(t->name);
		free(t);
	}
	config->targets = NULL;
	conf_free(&schema, MT, config);
}

const struct config_target *config_target_find(const struct config *config, const char *uuid,
					       const char *host, const char *disk)
{
	const char *const machines[] = { uuid, host };

	for (size_t i = 0; i < ARRAY_LENGTH(machines); i++) {
		size_t length = machines[i] ? strlen(machines[i]) : 0;

		for (const struct config_target *t = config->targets; length && t; t = t->next)
			if (!strncasecmp(t->name, machines[i], length) && t->name[length] == '/' &&
			    !strcmp(t->name + length + 1, disk))
				return t;
	}
	return NULL;
}
