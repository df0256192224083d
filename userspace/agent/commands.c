// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * commands: the agent's answers on its control socket. Called by common/control.c from the
 * event loop; every command answers at once, long jobs are polled.
 *
 *	status                                  everything (status.c)
 *	attach {device, name, granule}          replicate a disk from now on
 *	detach {device | name, force}           stop replicating it, and remember that
 *	failback {timeout_ms, verify, thaw}     start the job
 *	failback-status, stop-failback, resume
 *	tag {kind, name, timeout_ms}            start a tag; tag-status to follow it
 *	snapshot {device}, snapshot-release {device}, snapshot-status
 */
#include <errno.h>
#include <string.h>

#include "agent.h"
#include "control.h"
#include "snapshot.h"
#include "tag.h"
#include "util.h"

#define FAILBACK_TIMEOUT_MS (2ull * 3600 * 1000)

static json_t *problem_answer(const struct agent_problem *problem)
{
	return control_error(problem->remedy[0] ? problem->remedy : NULL, "%s", problem->text);
}

static const char *text_of(const json_t *request, const char *key)
{
	return json_string_value(json_object_get(request, key));
}

/* The disks of early boot may have changed: what brings the initramfs up to date. */
static json_t *with_boot(const struct agent *agent, json_t *answer)
{
	const char *remedy = early_stale(agent);

	if (remedy)
		json_object_set_new(answer, "boot", json_string(remedy));
	return answer;
}

static json_t *command_attach(struct agent *agent, const json_t *request)
{
	const char *device = text_of(request, "device"), *name = text_of(request, "name");
	const char *store = text_of(request, "store");
	json_int_t granule = json_integer_value(json_object_get(request, "granule"));
	struct agent_problem problem = { 0 };
	struct agent_disk *disk;

	if (!device)
		return control_error("name a disk, e.g. /dev/vdb", "attach: no device given");
	if (granule && (granule < BLKCBT_GRANULE_MIN || granule > BLKCBT_GRANULE_MAX ||
			(granule & (granule - 1))))
		return control_error("use a power of two from 4K to 1M",
				     "disk %s: cannot attach: granule %lld is not usable", device,
				     (long long)granule);
	if (!agent->tracker)
		return control_error(agent->tracker_problem.remedy, "disk %s: cannot attach: %s", device,
				     agent->tracker_problem.text[0] ? agent->tracker_problem.text :
								      "change tracking is starting");
	if (agent->released)
		return control_error("reprotect resume", "disk %s: cannot attach: this machine has been "
							 "failed back",
				     device);
	if (failback_active(agent))
		return control_error("wait for it, or stop it: reprotect failback --stop",
				     "disk %s: cannot attach during a failback", device);
	if (!config_store_valid(store))
		return control_error("none, auto, or an absolute path", "disk %s: cannot attach: store \"%s\" is not usable",
				     device, store);
	if (disks_attach(agent, device, name, (uint32_t)granule, store, &disk, &problem))
		return problem_answer(&problem);
	agent_group_changed(agent);
	return with_boot(agent, json_pack("{s:b, s:s, s:I, s:I}", "ok", 1, "name", disk->name, "id",
					  (json_int_t)disk->id, "size_bytes",
					  (json_int_t)disk->info.size_bytes));
}

static json_t *command_detach(struct agent *agent, const json_t *request)
{
	const char *which = text_of(request, "device");
	bool force = json_is_true(json_object_get(request, "force"));
	struct agent_problem problem = { 0 };
	struct agent_disk *disk;

	if (!which)
		which = text_of(request, "name");
	if (!which)
		return control_error("name a disk as reprotect disk list shows it",
				     "detach: no disk given");
	disk = disks_find(agent, which);
	if (!disk)
		return control_error("see: reprotect disk list",
				     "disk %s: cannot detach: is not replicated", which);
	if (disk->detached)
		return control_error(NULL, "disk %s (%s): is detached already", disk->name, disk->device);
	if (failback_active(agent))
		return control_error("wait for it, or stop it: reprotect failback --stop",
				     "disk %s: cannot detach during a failback", which);
	epoch_abandon(agent);
	if (disks_detach(agent, disk, force, &problem))
		return problem_answer(&problem);
	agent_group_changed(agent);
	return with_boot(agent, json_pack("{s:b, s:s}", "ok", 1, "name", disk->name));
}

static json_t *command_failback(struct agent *agent, const json_t *request)
{
	json_int_t timeout = json_integer_value(json_object_get(request, "timeout_ms"));
	const json_t *verify = json_object_get(request, "verify");
	bool thaw = json_is_true(json_object_get(request, "thaw"));
	struct agent_problem problem = { 0 };

	if (verify && !json_is_true(verify))
		return control_error("leave verify out, or set it to true",
				     "failback: targets are released only when they are verified");
	if (timeout < 0)
		return control_error("give a time above 0", "failback: timeout is negative");
	if (failback_start(agent, timeout ? (uint64_t)timeout : FAILBACK_TIMEOUT_MS, thaw, &problem))
		return problem_answer(&problem);
	return json_pack("{s:b}", "ok", 1);
}

static json_t *command_tag(struct agent *agent, const json_t *request)
{
	const char *kind = text_of(request, "kind"), *name = text_of(request, "name");
	json_int_t timeout = json_integer_value(json_object_get(request, "timeout_ms"));
	struct agent_problem problem = { 0 };

	if (!kind || (strcmp(kind, "app") && strcmp(kind, "crash")))
		return control_error("use crash or app", "tag: its kind is missing");
	if (timeout < 0)
		return control_error("give a time above 0", "tag: timeout is negative");
	if (tag_start(agent, !strcmp(kind, "app"), name, (uint64_t)timeout, &problem))
		return problem_answer(&problem);
	return json_pack("{s:b, s:o}", "ok", 1, "tags", tag_json(agent));
}

static json_t *command_snapshot(struct agent *agent, const json_t *request, bool release)
{
	const char *which = text_of(request, "device");
	struct agent_problem problem = { 0 };

	if (!which)
		return control_error("name a disk as reprotect disk list shows it", "snapshot: no disk given");
	if (!agent->tracker)
		return control_error(agent->tracker_problem.remedy, "disk %s: no snapshot: %s", which,
				     agent->tracker_problem.text[0] ? agent->tracker_problem.text :
								      "change tracking is starting");
	if (release ? snapshot_release(agent, which, &problem) : snapshot_start(agent, which, &problem))
		return problem_answer(&problem);
	return json_pack("{s:b, s:o}", "ok", 1, "snapshot", snapshot_json(agent));
}

json_t *commands_handle(const char *command, const json_t *request, void *user)
{
	struct agent *agent = user;

	if (!strcmp(command, "status"))
		return status_json(agent);
	if (!strcmp(command, "attach"))
		return command_attach(agent, request);
	if (!strcmp(command, "detach"))
		return command_detach(agent, request);
	if (!strcmp(command, "failback"))
		return command_failback(agent, request);
	if (!strcmp(command, "failback-status"))
		return json_pack("{s:b, s:o}", "ok", 1, "failback", failback_json(agent));
	if (!strcmp(command, "stop-failback")) {
		if (!failback_active(agent))
			return control_error(NULL, "no failback is under way");
		failback_stop(agent, "stopped by command");
		return json_pack("{s:b}", "ok", 1);
	}
	if (!strcmp(command, "resume")) {
		struct agent_problem problem = { 0 };

		if (failback_resume(agent, &problem))
			return problem_answer(&problem);
		return json_pack("{s:b}", "ok", 1);
	}
	if (!strcmp(command, "tag"))
		return command_tag(agent, request);
	if (!strcmp(command, "tag-status"))
		return json_pack("{s:b, s:o}", "ok", 1, "tags", tag_json(agent));
	if (!strcmp(command, "snapshot") || !strcmp(command, "snapshot-release"))
		return command_snapshot(agent, request, !strcmp(command, "snapshot-release"));
	if (!strcmp(command, "snapshot-status"))
		return json_pack("{s:b, s:o}", "ok", 1, "snapshot", snapshot_json(agent));
	return control_error("the agent and the command line are of different versions?",
			     "unknown command \"%s\"", command);
}
