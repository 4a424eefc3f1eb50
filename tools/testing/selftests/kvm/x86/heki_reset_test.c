// SPDX-License-Identifier: GPL-2.0
/*
 * The ways out of a seal: user space resets the VM, which is then as open as at
 * first and can be sealed again, or the VM ends and leaves nothing behind.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "apic.h"
#include "kvm_test_harness.h"
#include "heki.h"

#define NR_VCPUS	2
#define SEALED		0
#define OTHER		1
#define FLAGS		2	/* a page through which host and guest talk */
#define READ_ONLY	3
#define CODE		4

#define IS_RUNNING	HEKI_PAGE(FLAGS)
#define MAY_STOP	(HEKI_PAGE(FLAGS) + 8)
#define WAIT_MAX	20000000
#define SPIN_MAX	2000000000ull

FIXTURE(reset) {
	struct heki_vm h;
};

FIXTURE_SETUP(reset)
{
	heki_vm_create(&self->h, NR_VCPUS);
}

FIXTURE_TEARDOWN(reset)
{
	heki_vm_free(&self->h);
}

/* Zero or the error. */
static int reset(struct heki_vm *h)
{
	return __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL) ?
	       errno : 0;
}

static bool is_open(struct heki_vm *h)
{
	struct heki_query q = heki_query(h);

	return q.state == HEKI_STATE_OPEN && !q.held;
}

HEKI_TEST(reset, memory_is_writable_again)
{
	struct heki_vm *h = &self->h;
	int i;

	heki_seal_page(h, SEALED);
	for (i = 0; i < NR_VCPUS; i++)
		EXPECT_TRUE(heki_is_sealed(h, h->vcpu[i], SEALED));
	EXPECT_EQ(0, reset(h));
	EXPECT_TRUE(is_open(h));
	for (i = 0; i < NR_VCPUS; i++)
		EXPECT_TRUE(heki_is_writable(h, h->vcpu[i], SEALED));
}

HEKI_TEST(reset, another_seal_is_another_seal)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	EXPECT_EQ(0, reset(h));
	heki_seal_page(h, OTHER);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], OTHER));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[1], SEALED));
	EXPECT_EQ(2, vcpu_get_stat(h->vcpu[0], heki_seal));
}

HEKI_TEST(reset, an_open_vm_stays_open)
{
	struct heki_vm *h = &self->h;

	EXPECT_EQ(0, reset(h));
	EXPECT_EQ(0, reset(h));
	EXPECT_TRUE(is_open(h));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], SEALED));
}

static u64 guest_clear_wp(u64 *arg)
{
	return guest_set_cr0((u64[]){ get_cr0() & ~X86_CR0_WP });
}

static bool can_write_read_only(struct kvm_vcpu *vcpu)
{
	return !heki_call(vcpu, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK);
}

HEKI_TEST(reset, pins_are_gone)
{
	struct heki_vm *h = &self->h;

	*vm_get_pte(h->vm, heki_map_alias(h, READ_ONLY)) &= ~PTE_WRITABLE_MASK(&h->vm->mmu);
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	heki_add_pin(heki_begin_request(h, 0), HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(h);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_clear_wp));
	EXPECT_FALSE(can_write_read_only(h->vcpu[1]));

	EXPECT_EQ(0, reset(h));
	/* The vCPU that never set the bit is rid of it, the other one may be. */
	EXPECT_TRUE(can_write_read_only(h->vcpu[1]));
	EXPECT_FALSE(can_write_read_only(h->vcpu[0]));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_clear_wp));
	EXPECT_TRUE(can_write_read_only(h->vcpu[0]));
}

HEKI_TEST(reset, the_allow_list_is_gone)
{
	struct heki_vm *h = &self->h;

	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	heki_put_code(h, HEKI_PAGE(CODE));
	heki_seal_exec(h, heki_begin_exec_request(h));
	EXPECT_TRUE(heki_cannot_run(h->vcpu[0], HEKI_PAGE(CODE)));
	EXPECT_TRUE(heki_cannot_run(h->vcpu[1], HEKI_PAGE(CODE)));
	EXPECT_EQ(0, reset(h));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(CODE)));
	EXPECT_EQ(0, heki_call(h->vcpu[1], guest_exec, HEKI_PAGE(CODE)));
}

/*
 * With a vCPU in the guest
 */

/*
 * Says that it runs and spins until it may stop. With interrupts on: an emulated
 * CPU may give its host interrupts only then.
 */
static u64 guest_spin(u64 *arg)
{
	u64 i;

	sti();
	WRITE_ONCE(*(u64 *)IS_RUNNING, 1);
	for (i = 0; i < SPIN_MAX && !READ_ONCE(*(u64 *)MAY_STOP); i++)
		;
	cli();
	return i == SPIN_MAX;
}

static void *run_thread(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

static bool is_running(struct heki_vm *h)
{
	int i;

	for (i = 0; i < WAIT_MAX; i++) {
		if (heki_peek(h, IS_RUNNING))
			return true;
		sched_yield();
	}
	return false;
}

HEKI_TEST(reset, is_refused_while_a_vcpu_runs)
{
	struct heki_vm *h = &self->h;
	pthread_t thread;

	heki_seal_page(h, SEALED);
	heki_prepare_call(h->vcpu[1], guest_spin, (u64[HEKI_NR_ARGS]){});
	pthread_create(&thread, NULL, run_thread, h->vcpu[1]);
	EXPECT_TRUE(is_running(h));
	EXPECT_EQ(EBUSY, reset(h));
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));

	heki_poke(h, MAY_STOP, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, heki_finish_call(h->vcpu[1]));
	EXPECT_EQ(0, reset(h));
	EXPECT_TRUE(is_open(h));
}

/*
 * By a VMM that knows no Heki: all vCPUs in their reset state
 */

#define RESET_SLOT	12
#define RESET_PAGE	0xfffff000ull
#define RESET_RIP	0xfff0
#define RESET_PORT	0x80

/* Whether the administrator lets that end a seal. */
static bool vcpus_may_reset(void)
{
	return get_kvm_param_bool("heki_reset_by_vcpus");
}

/* The code that a vCPU runs first: OUT, so that KVM_RUN returns. */
static void put_port_code(struct heki_vm *h)
{
	const u8 out[] = { 0xe6, RESET_PORT };

	memcpy(addr_gpa2hva(h->vm, RESET_PAGE + (RESET_RIP & (PAGE_SIZE - 1))), out, sizeof(out));
}

static void put_reset_code(struct heki_vm *h)
{
	vm_userspace_mem_region_add(h->vm, VM_MEM_SRC_ANONYMOUS, RESET_PAGE, RESET_SLOT, 1, 0);
	put_port_code(h);
}

/* What a guest's reset makes of the registers that count (SDM vol. 3A, 11.1.1). */
static void put_in_reset_state(struct kvm_vcpu *vcpu)
{
	struct kvm_regs regs = { .rip = RESET_RIP, .rflags = 2 };
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cs = (struct kvm_segment){
		.base = 0xffff0000, .limit = 0xffff, .selector = 0xf000,
		.type = 11, .present = 1, .s = 1,
	};
	sregs.cr0 = X86_CR0_ET | X86_CR0_NW | X86_CR0_CD;
	sregs.cr3 = 0;
	sregs.cr4 = 0;
	sregs.efer = 0;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_set(vcpu, &regs);
}

static void say_it_runs(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };

	vcpu_mp_state_set(vcpu, &runnable);
}

/* Resets vCPUs [0, @nr), or only their registers, runs the first of them, and puts them back to where they were. */
static void reset_vcpus(struct heki_vm *h, int nr, bool whole)
{
	struct kvm_sregs sregs[NR_VCPUS];
	struct kvm_regs regs[NR_VCPUS];
	int i;

	put_reset_code(h);
	for (i = 0; i < nr; i++) {
		vcpu_sregs_get(h->vcpu[i], &sregs[i]);
		vcpu_regs_get(h->vcpu[i], &regs[i]);
		put_in_reset_state(h->vcpu[i]);
		if (whole)
			say_it_runs(h->vcpu[i]);
	}
	vcpu_run(h->vcpu[0]);
	TEST_ASSERT_KVM_EXIT_REASON(h->vcpu[0], KVM_EXIT_IO);
	TEST_ASSERT_EQ(h->vcpu[0]->run->io.port, RESET_PORT);
	for (i = 0; i < nr; i++) {
		vcpu_sregs_set(h->vcpu[i], &sregs[i]);
		vcpu_regs_set(h->vcpu[i], &regs[i]);
	}
}

HEKI_TEST(reset, all_vcpus_in_reset_state_as_the_host_allows)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	reset_vcpus(h, NR_VCPUS, true);
	EXPECT_EQ(vcpus_may_reset() ? HEKI_STATE_OPEN : HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_EQ(!vcpus_may_reset(), heki_is_sealed(h, h->vcpu[1], SEALED));
	heki_poke(h, HEKI_PAGE(OTHER), HEKI_CALM);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[1], OTHER));
}

HEKI_TEST(reset, one_vcpu_in_reset_state_ends_nothing)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	reset_vcpus(h, 1, true);
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], SEALED));
}

/* A VMM may write back what a guest made of its registers. */
HEKI_TEST(reset, registers_of_a_reset_alone_end_nothing)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	reset_vcpus(h, NR_VCPUS, false);
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], SEALED));
}

/* The first vCPU has run since it was reset. */
HEKI_TEST(reset, vcpus_in_reset_state_one_after_the_other_end_nothing)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	reset_vcpus(h, 1, true);
	put_in_reset_state(h->vcpu[1]);
	say_it_runs(h->vcpu[1]);
	vcpu_run(h->vcpu[1]);
	TEST_ASSERT_KVM_EXIT_REASON(h->vcpu[1], KVM_EXIT_IO);
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
}

/*
 * The same in a VM whose vCPUs have been in their reset state from the start, with a local APIC
 * in the kernel or none. In the latter a VMM resets a vCPU to carry out an INIT, too, which a
 * guest sends as it likes.
 */

FIXTURE(apic) {
	struct heki_vm h;
};

FIXTURE_VARIANT(apic) {
	bool in_kernel;
};

FIXTURE_VARIANT_ADD(apic, in_kernel) { .in_kernel = true };
FIXTURE_VARIANT_ADD(apic, in_user_space) { .in_kernel = false };

FIXTURE_SETUP(apic)
{
	struct heki_vm *h = &self->h;
	int i;

	*h = (struct heki_vm){ .vm = vm_create_barebones() };
	if (variant->in_kernel)
		vm_create_irqchip(h->vm);
	h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
	vm_userspace_mem_region_add(h->vm, VM_MEM_SRC_ANONYMOUS, HEKI_TEST_GPA, HEKI_TEST_SLOT, 1, 0);
	vm_userspace_mem_region_add(h->vm, VM_MEM_SRC_ANONYMOUS, HEKI_REQUEST_GPA,
				    HEKI_REQUEST_SLOT, HEKI_REQUEST_PAGES, 0);
	h->request = heki_hva(h, HEKI_REQUEST_GPA);
	for (i = 0; i < NR_VCPUS; i++) {
		h->vcpu[i] = __vm_vcpu_add(h->vm, i);
		vcpu_init_cpuid(h->vcpu[i], kvm_get_supported_cpuid());
	}
}

FIXTURE_TEARDOWN(apic)
{
	heki_vm_free(&self->h);
}

#define SEAL_OFFSET	0xf00	/* in the page of the reset vector */

/* In real mode: the hypercall of a SEAL, then the port, with what it returned. */
static void put_seal_code(struct heki_vm *h)
{
	const u8 jump[] = { 0xe9, 0x0d, 0xff };	/* jmp to SEAL_OFFSET */
	const struct {
		u8 mov_nr[2];
		u32 nr;
		u8 mov_op[2];
		u32 op;
		u8 mov_gpa[2];
		u32 gpa;
		u8 mov_len[2];
		u32 len;
		u8 xor_flags[3];
		u8 call[3];
		u8 out[3];
	} __packed seal = {
		{ 0x66, 0xb8 }, KVM_HC_HEKI,				/* mov ..., %eax */
		{ 0x66, 0xbb }, HEKI_OP_SEAL,				/* mov ..., %ebx */
		{ 0x66, 0xb9 }, HEKI_REQUEST_GPA,			/* mov ..., %ecx */
		{ 0x66, 0xba }, heki_request_len(h->request),		/* mov ..., %edx */
		{ 0x66, 0x31, 0xf6 },					/* xor %esi, %esi */
		{ 0x0f, 0x01, host_cpu_is_amd_compatible ? 0xd9 : 0xc1 }, /* vmmcall or vmcall */
		{ 0x66, 0xe7, RESET_PORT },				/* out %eax, $RESET_PORT */
	};

	kvm_static_assert((RESET_RIP & (PAGE_SIZE - 1)) + sizeof(jump) - 0xf3 == SEAL_OFFSET);
	put_reset_code(h);
	memcpy(addr_gpa2hva(h->vm, RESET_PAGE + (RESET_RIP & (PAGE_SIZE - 1))), jump, sizeof(jump));
	memcpy(addr_gpa2hva(h->vm, RESET_PAGE + SEAL_OFFSET), &seal, sizeof(seal));
}

/* Nobody of whom the guest knows is there to ask. */
static u32 state_of(struct heki_vm *h)
{
	struct {
		struct heki_ranges head;
		struct heki_range range[2];
	} ranges = { .head.nr = ARRAY_SIZE(ranges.range) };

	kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RANGES, &ranges);
	return ranges.head.state;
}

/* Runs the first vCPU up to its port; what it says there. */
static u32 run_to_port(struct heki_vm *h)
{
	struct kvm_run *run = h->vcpu[0]->run;

	vcpu_run(h->vcpu[0]);
	TEST_ASSERT_KVM_EXIT_REASON(h->vcpu[0], KVM_EXIT_IO);
	TEST_ASSERT_EQ(run->io.port, RESET_PORT);
	return *(u32 *)((void *)run + run->io.data_offset);
}

HEKI_TEST(apic, ends_a_seal_with_all_vcpus_only_in_the_kernel)
{
	struct heki_vm *h = &self->h;
	int i;

	heki_add_page(heki_begin_request(h, 0), SEALED);
	put_seal_code(h);
	EXPECT_EQ(0, run_to_port(h));
	EXPECT_EQ(HEKI_STATE_SEALED, state_of(h));
	vcpu_run_complete_io(h->vcpu[0]);

	/* A kernel that does not seal itself. */
	put_port_code(h);
	for (i = 0; i < NR_VCPUS; i++) {
		put_in_reset_state(h->vcpu[i]);
		say_it_runs(h->vcpu[i]);
	}
	run_to_port(h);
	EXPECT_EQ(variant->in_kernel && vcpus_may_reset() ? HEKI_STATE_OPEN : HEKI_STATE_SEALED,
		  state_of(h));
}

/*
 * By the guest alone: INIT and triple faults, after which its vCPUs are as after a reset
 */

#define INIT_OFFSET	0xf00	/* in the page of the reset vector */
#define ICR_INIT	(APIC_INT_ASSERT | APIC_DM_INIT)

/* arg[0]: APIC ID */
static u64 guest_init(u64 *arg)
{
	x2apic_write_reg(APIC_ICR, arg[0] << 32 | ICR_INIT);
	return 0;
}

static u64 guest_enable_apic(u64 *arg)
{
	x2apic_enable();
	return 0;
}

/* In real mode: INIT of the vCPU with APIC ID 1, then the port. */
static void put_init_code(struct heki_vm *h)
{
	const u8 jump[] = { 0xe9, 0x0d, 0xff };	/* jmp to INIT_OFFSET */
	const u8 init[] = {
		0x66, 0xb9, 0x30, 0x08, 0x00, 0x00,		/* mov $X2APIC_ICR, %ecx */
		0x66, 0xba, 0x01, 0x00, 0x00, 0x00,		/* mov $1, %edx */
		0x66, 0xb8, 0x00, ICR_INIT >> 8, 0x00, 0x00,	/* mov $ICR_INIT, %eax */
		0x0f, 0x30,					/* wrmsr */
		0xe6, RESET_PORT,				/* out %al, $RESET_PORT */
	};

	kvm_static_assert((RESET_RIP & (PAGE_SIZE - 1)) + sizeof(jump) - 0xf3 == INIT_OFFSET);
	put_reset_code(h);
	memcpy(addr_gpa2hva(h->vm, RESET_PAGE + (RESET_RIP & (PAGE_SIZE - 1))), jump, sizeof(jump));
	memcpy(addr_gpa2hva(h->vm, RESET_PAGE + INIT_OFFSET), init, sizeof(init));
}

struct vcpu_state {
	struct kvm_sregs sregs;
	struct kvm_regs regs;
};

static void save_vcpus(struct heki_vm *h, struct vcpu_state *state)
{
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		vcpu_sregs_get(h->vcpu[i], &state[i].sregs);
		vcpu_regs_get(h->vcpu[i], &state[i].regs);
	}
}

/* Has them begin anew, so that the guest can be asked again. */
static void begin_anew(struct heki_vm *h, struct vcpu_state *state)
{
	struct kvm_vcpu_events none = {};
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		state[i].regs.rip = (u64)heki_guest_main;
		state[i].regs.rdi = i;
		/* As a call leaves it. */
		state[i].regs.rsp = (state[i].regs.rsp & ~15ull) - 8;
		vcpu_sregs_set(h->vcpu[i], &state[i].sregs);
		vcpu_regs_set(h->vcpu[i], &state[i].regs);
		vcpu_events_set(h->vcpu[i], &none);
		say_it_runs(h->vcpu[i]);
	}
}

static bool is_in_reset_state(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	return !(sregs.cr0 & (X86_CR0_PE | X86_CR0_PG));
}

/* vCPU 1 INITs the first, which is the one that starts at the reset vector and INITs vCPU 1. */
HEKI_TEST(reset, an_init_of_all_vcpus_ends_nothing)
{
	struct heki_vm *h = &self->h;
	struct vcpu_state state[NR_VCPUS];
	struct kvm_mp_state mp_state;
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		heki_call(h->vcpu[i], guest_enable_apic);
	heki_seal_page(h, SEALED);
	put_init_code(h);
	heki_call(h->vcpu[1], guest_init, h->vcpu[0]->id);
	save_vcpus(h, state);
	vcpu_run(h->vcpu[0]);
	TEST_ASSERT_KVM_EXIT_REASON(h->vcpu[0], KVM_EXIT_IO);
	EXPECT_EQ(RESET_PORT, h->vcpu[0]->run->io.port);
	vcpu_mp_state_get(h->vcpu[1], &mp_state);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, mp_state.mp_state);
	for (i = 0; i < NR_VCPUS; i++)
		EXPECT_TRUE(is_in_reset_state(h->vcpu[i]));

	begin_anew(h, state);
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], SEALED));
}

/* SVM has KVM reset the vCPU itself, VMX leaves it as it is. */
HEKI_TEST(reset, triple_faults_of_all_vcpus_end_nothing)
{
	struct heki_vm *h = &self->h;
	struct vcpu_state state[NR_VCPUS];
	int i;

	heki_seal_page(h, SEALED);
	put_reset_code(h);
	heki_call(h->vcpu[1], guest_read, HEKI_PAGE(OTHER));
	save_vcpus(h, state);
	for (i = 0; i < NR_VCPUS; i++) {
		heki_prepare_call(h->vcpu[i], guest_triple_fault, (u64[HEKI_NR_ARGS]){});
		vcpu_run(h->vcpu[i]);
		EXPECT_EQ(KVM_EXIT_SHUTDOWN, h->vcpu[i]->run->exit_reason);
		EXPECT_EQ(host_cpu_is_amd_compatible, is_in_reset_state(h->vcpu[i]));
	}

	begin_anew(h, state);
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], SEALED));
}

/*
 * What seals leave behind when they end: by a reset, with their VM, with a VMM that is killed
 */

#define NR_SEALS	100
#define NR_KILLED	20
#define KILL_AFTER_US	20000
#define NR_WARM_UPS	5
/* A leak of the ranges of each of so many seals would be at least twice as much. */
#define LEAK_MAX_KB(nr)	((nr) * HEKI_MAX_RANGES * (long)sizeof(struct heki_range) / 1024 / 2)

/* As many ranges as there may be, so that a leak shows. */
static void seal_ranges(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, 0);
	int i;

	for (i = 0; i < HEKI_MAX_RANGES; i++)
		heki_add_range(req, HEKI_PAGE(i), PAGE_SIZE, 0, i % HEKI_KIND_FTRACE);
	heki_seal(h);
}

static void seal_and_reset(struct heki_vm *h, int round)
{
	seal_ranges(h);
	TEST_ASSERT(heki_is_sealed(h, h->vcpu[round % NR_VCPUS], round), "Page %d is not sealed",
		    round);
	TEST_ASSERT_EQ(reset(h), 0);
	TEST_ASSERT(heki_is_writable(h, h->vcpu[(round + 1) % NR_VCPUS], round),
		    "Page %d is still sealed", round);
}

static void create_seal_destroy(struct heki_vm *unused, int round)
{
	struct heki_vm h;

	heki_vm_create(&h, 1);
	seal_ranges(&h);
	TEST_ASSERT(heki_is_sealed(&h, h.vcpu[0], round), "Page %d is not sealed", round);
	heki_vm_free(&h);
}

/* Says that it runs, and runs on. With interrupts on, as guest_spin(). */
static u64 guest_run_on(u64 *arg)
{
	GUEST_SYNC(0);
	sti();
	for (;;)
		cpu_relax();
}

/* A VMM that is killed while its guest is sealed and runs. */
static void create_seal_kill(struct heki_vm *unused, int round)
{
	int pipe_fd[2], status;
	struct heki_vm h;
	pid_t pid;
	char c;

	TEST_ASSERT(!pipe(pipe_fd), "No pipe");
	pid = fork();
	TEST_ASSERT(pid >= 0, "No process");
	if (!pid) {
		heki_vm_create(&h, 1);
		seal_ranges(&h);
		heki_prepare_call(h.vcpu[0], guest_run_on, (u64[HEKI_NR_ARGS]){});
		vcpu_run(h.vcpu[0]);
		_exit(write(pipe_fd[1], "x", 1) != 1 || __vcpu_run(h.vcpu[0]));
	}
	TEST_ASSERT(read(pipe_fd[0], &c, 1) == 1, "The VMM of round %d ended by itself", round);
	usleep(KILL_AFTER_US);
	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "It was not killed");
	close(pipe_fd[0]);
	close(pipe_fd[1]);
}

static bool nothing_stays(struct heki_vm *h, void (*round)(struct heki_vm *, int), int nr)
{
	long before, lost;
	int i, entries;

	for (i = 0; i < NR_WARM_UPS; i++)
		round(h, i);
	entries = heki_count_vms();
	before = heki_kernel_kb();
	for (i = 0; i < nr; i++)
		round(h, i);
	lost = heki_kernel_kb() - before;
	ksft_print_msg("%ld KiB more after %d seals\n", lost, nr);
	return (lost < LEAK_MAX_KB(nr) || heki_has_kmemleak()) && entries == heki_count_vms();
}

TEST_F_TIMEOUT(reset, many_resets_leave_nothing, 2 * HEKI_TIMEOUT)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(nothing_stays(h, seal_and_reset, NR_SEALS));
	EXPECT_EQ(NR_WARM_UPS + NR_SEALS, vcpu_get_stat(h->vcpu[0], heki_seal));
}

TEST_F_TIMEOUT(reset, ended_vms_leave_nothing, 2 * HEKI_TIMEOUT)
{
	EXPECT_TRUE(nothing_stays(NULL, create_seal_destroy, NR_SEALS));
}

TEST_F_TIMEOUT(reset, killed_vmms_leave_nothing, 2 * HEKI_TIMEOUT)
{
	EXPECT_TRUE(nothing_stays(NULL, create_seal_kill, NR_KILLED));
}

/* The device keeps the VM alive, as any file descriptor of it does. */
HEKI_TEST(reset, the_device_outlives_its_vm)
{
	struct heki_vm h;

	heki_vm_create(&h, 1);
	heki_seal_page(&h, SEALED);
	kvm_vm_free(h.vm);
	EXPECT_EQ(0, reset(&h));
	EXPECT_EQ(0, close(h.device));
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
