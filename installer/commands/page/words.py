"""The texts of the page, in each of its languages. What was seen on the host is told as the log has it, in English."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from installer.bundle.manifest import Signer
from installer.core.finding import Level
from installer.plan import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The texts of one language; {NAME} is filled in."""

    language: Language
    kicker: str
    done: str
    done_with_warnings: str
    failed: str
    interrupted: str
    interrupted_remedy: str

    address: str
    server: str
    system: str
    engine: str
    user: str
    folder: str
    log: str
    started: str
    took: str
    installer: str

    failure: str
    what_happened: str
    what_to_do: str
    again: str

    next: str
    open: str
    first_account: str
    sign_in: str
    sign_in_as: str
    sign_in_here: str
    add_models: str
    back_up: str
    hand_over: str
    look: str
    stop: str
    start: str
    remove: str

    checklist: str
    finished_stack: str
    this_host: str
    english: str
    check: str
    state: str
    seen: str
    do: str
    levels: Mapping[Level, str]
    no_checks: str

    models: str
    inside: str
    first_answer: str
    measured: str
    knowledge: str
    indexed: str
    answered_with_it: str
    context: str
    default: str
    able: Mapping[str, str]
    kinds: Mapping[str, str]
    became: Mapping[str, str]  # what became of a plugin or a model
    notes: str
    others: Mapping[str, str]  # headings and names of what the report may hold besides, by its names there

    times: str
    step: str
    time: str
    total: str
    seconds: str
    steps: Mapping[str, str]  # by their names on the console; empty where those are good as they are

    installed: str
    dify: str
    commit: str
    architecture: str
    choices: str
    base: str
    files: str
    files_note: str
    file: str
    size: str
    images: str
    image: str
    image_id: str
    digest: str
    plugins: str
    plugins_note: str
    package: str
    signers: Mapping[Signer, str]

    settings: str
    settings_note: str
    secrets: str
    empty: str
    key: str
    value: str

    made_by: str


ENGLISH = Words(
    language="en",
    kicker="Installation report",
    done="Installed. {count} checks passed.",
    done_with_warnings="Installed. {count} checks passed; warnings to look at: {warnings}.",
    failed="The installation failed.",
    interrupted="The installation was interrupted.",
    interrupted_remedy="Run the same command again: it continues where this run ended.",
    address="Address",
    server="Server",
    system="Operating system",
    engine="Container engine",
    user="Installed as",
    folder="Install folder",
    log="Log",
    started="Started",
    took="Duration",
    installer="Installer",
    failure="What went wrong",
    what_happened="What happened",
    what_to_do="What to do",
    again="After that, run the same command again. It repairs, and keeps settings, secrets and data.",
    next="What to do next",
    open="Open {url} in a browser.",
    first_account=(
        "Create the first account. The page asks for INIT_PASSWORD; its value stands in {env}, "
        "which only the user who installed can read."
    ),
    sign_in="Sign in with an account of this Dify.",
    sign_in_as="Sign in as {account}.",
    sign_in_here="Sign in as {account}. The password stands in {file}, which only the user who installed can read.",
    add_models=(
        "Give Dify a model: Settings, Model Provider. To have a model server checked, run the same command again with "
        "{options}."
    ),
    back_up=(
        "Back up {folder} regularly, while the stack is stopped. {env} holds the settings and the secrets that belong "
        "to the data in {volumes}."
    ),
    hand_over="Keep these commands; they are for {user} on {server}:",
    look="How the installation is",
    stop="Stop the stack",
    start="Start it again",
    remove="Uninstall; settings and data stay",
    checklist="Checklist",
    finished_stack="The finished installation",
    this_host="This host, before the run changed anything",
    english="",
    check="Check",
    state="Result",
    seen="What was seen",
    do="To do: {remedy}",
    levels={"ok": "passed", "warning": "warning", "error": "failed", "info": "noted"},
    no_checks="The run did not come as far as this checklist.",
    models="Model servers",
    inside="Plugins, models and the first answer",
    first_answer="The first answer",
    knowledge="Found in a small knowledge base",
    indexed="{model}: {passages} passages indexed in {index}, what is meant found in {find}",
    answered_with_it="The chat model answers with it:",
    measured="{model}: first word after {first}, all after {whole}, {tokens} tokens",
    context="context {tokens}",
    default="default",
    able={"tools": "tools", "vision": "images"},
    kinds={},
    became={},
    notes="Notes",
    others={},
    times="Times",
    step="Step",
    time="Time",
    total="Total",
    seconds="{seconds} s",
    steps={},
    installed="What was installed",
    dify="Dify",
    commit="Source",
    architecture="Architecture",
    choices="Chosen at the build",
    base="On top of",
    files="Files of the bundle",
    files_note="The checksums are those of SHA256SUMS, which came with the bundle.",
    file="File",
    size="Size",
    images="Container images",
    image="Image",
    image_id="ID",
    digest="Registry's digest",
    plugins="Plugins that came along",
    plugins_note="With {count} files for them: Python packages, and keys of signatures.",
    package="Package",
    signers={"Dify": "Signed by Dify", "owner": "Signed by the owner of this installation"},
    settings="Settings",
    settings_note="{changed} of {total} settings differ from Dify's defaults.",
    secrets="Not shown, since they are secrets: {keys}.",
    empty="(empty)",
    key="Setting",
    value="Value",
    made_by="Written by dify-installer {version}. This page holds no secrets. The same for programs: {name}.",
)

KOREAN = Words(
    language="ko",
    kicker="설치 보고서",
    done="설치가 끝났습니다. 점검 {count}개를 통과했습니다.",
    done_with_warnings="설치가 끝났습니다. 점검 {count}개를 통과했고, 확인할 경고가 {warnings}개 있습니다.",
    failed="설치하지 못했습니다.",
    interrupted="설치가 중단되었습니다.",
    interrupted_remedy="같은 명령을 다시 실행하십시오. 중단된 곳에서 이어서 진행합니다.",
    address="주소",
    server="서버",
    system="운영 체제",
    engine="컨테이너 엔진",
    user="설치한 사용자",
    folder="설치 폴더",
    log="로그",
    started="시작",
    took="걸린 시간",
    installer="설치 프로그램",
    failure="실패 원인",
    what_happened="일어난 일",
    what_to_do="할 일",
    again="그다음 같은 명령을 다시 실행하십시오. 복구하며, 설정과 비밀 값과 데이터는 그대로 남습니다.",
    next="다음에 할 일",
    open="브라우저에서 다음 주소를 엽니다: {url}",
    first_account=(
        "첫 계정을 만듭니다. 페이지가 INIT_PASSWORD를 묻습니다. 값은 {env}에 있으며, 설치한 사용자만 읽을 수 있습니다."
    ),
    sign_in="이 Dify의 계정으로 로그인합니다.",
    sign_in_as="{account} 계정으로 로그인합니다.",
    sign_in_here="{account} 계정으로 로그인합니다. 비밀번호는 {file}에 있으며, 설치한 사용자만 읽을 수 있습니다.",
    add_models=(
        "Dify에 모델을 등록합니다: 설정, 모델 공급자. 모델 서버를 점검하려면 {options} 옵션으로 명령을 다시 실행합니다."
    ),
    back_up=(
        "{folder} 폴더를 스택을 멈춘 상태에서 정기적으로 백업합니다. {env}에는 설정과 비밀 값이 있으며, {volumes}의 "
        "데이터는 그 비밀 값이 있어야 쓸 수 있습니다."
    ),
    hand_over="다음 명령을 보관하십시오. {server}에서 {user} 사용자가 실행합니다.",
    look="설치 상태 보기",
    stop="스택 멈추기",
    start="다시 시작하기",
    remove="제거하기. 설정과 데이터는 남습니다",
    checklist="점검표",
    finished_stack="설치된 Dify",
    this_host="변경하기 전의 호스트",
    english="점검 내용은 로그에서 찾을 수 있도록 영어 원문 그대로 적습니다.",
    check="점검",
    state="결과",
    seen="확인한 내용",
    do="할 일: {remedy}",
    levels={"ok": "통과", "warning": "경고", "error": "실패", "info": "참고"},
    no_checks="이 점검까지 진행하지 못했습니다.",
    models="모델 서버",
    inside="플러그인, 모델, 첫 답변",
    first_answer="첫 답변",
    knowledge="작은 지식 베이스에서 찾은 것",
    indexed="{model}: 단락 {passages}개 색인 {index}, 뜻이 맞는 단락 찾기 {find}",
    answered_with_it="대화 모델이 이 단락을 받고 답합니다.",
    measured="{model}: 첫 단어 {first}, 전체 {whole}, 토큰 {tokens}개",
    context="문맥 {tokens}",
    default="기본 모델",
    able={"tools": "도구", "vision": "이미지"},
    kinds={"chat": "대화", "embedding": "임베딩", "rerank": "재순위"},
    became={
        "installed": "설치됨",
        "upgraded": "올림",
        "kept": "그대로",
        "added": "등록됨",
        "updated": "갱신됨",
        "failed": "실패",
    },
    notes="알림",
    others={},
    times="소요 시간",
    step="단계",
    time="시간",
    total="합계",
    seconds="{seconds}초",
    steps={
        "verify": "번들 검증",
        "preflight": "호스트 점검",
        "podman": "podman 설치",
        "images": "이미지 적재",
        "keep": "이전 버전 보관",
        "rows": "행 비교",
        "podman-compose": "podman-compose 설치",
        "plugins": "플러그인 복사",
        "database": "데이터베이스 만들기",
        "data": "데이터 복원",
        "settings": "설정 작성",
        "start": "스택 시작",
        "firewall": "방화벽",
        "health": "정상 상태 대기",
        "boot": "부팅 시 시작",
        "check": "최종 점검",
        "account": "계정",
        "add plugins": "플러그인 설치",
        "models": "모델 등록",
        "answer": "첫 답변",
        "knowledge": "지식 베이스",
    },
    installed="설치된 것",
    dify="Dify",
    commit="출처",
    architecture="아키텍처",
    choices="빌드할 때 고른 것",
    base="기반 번들",
    files="번들 파일",
    files_note="체크섬은 번들과 함께 온 SHA256SUMS의 값과 같습니다.",
    file="파일",
    size="크기",
    images="컨테이너 이미지",
    image="이미지",
    image_id="ID",
    digest="레지스트리 다이제스트",
    plugins="함께 온 플러그인",
    plugins_note="플러그인에 필요한 파일 {count}개도 있습니다: Python 패키지와 서명 키.",
    package="패키지",
    signers={"Dify": "Dify가 서명", "owner": "이 설치의 소유자가 서명"},
    settings="설정",
    settings_note="설정 {total}개 가운데 {changed}개가 Dify의 기본값과 다릅니다.",
    secrets="비밀 값이므로 표시하지 않는 설정: {keys}",
    empty="(비어 있음)",
    key="설정",
    value="값",
    made_by="작성: dify-installer {version}. 이 페이지에는 비밀 값이 없습니다. 프로그램용 보고서: {name}",
)

WORDS: dict[Language, Words] = {"en": ENGLISH, "ko": KOREAN}
